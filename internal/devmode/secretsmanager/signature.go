package secretsmanager

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxSkew is the maximum difference between the times of a request and of the server.
const maxSkew = 5 * time.Minute

const algorithm = "AWS4-HMAC-SHA256"

// signature is the Authorization header of a signed request.
type signature struct {
	keyID, date, region, service string
	headers                      []string
	value                        string
}

// parseSignature parses the header; ok is false if it is not a signature.
func parseSignature(header string) (s signature, ok bool) {
	rest, ok := strings.CutPrefix(header, algorithm+" ")
	if !ok {
		return s, false
	}
	for part := range strings.SplitSeq(rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		switch name {
		case "Credential":
			scope := strings.Split(value, "/")
			if len(scope) != 5 || scope[4] != "aws4_request" {
				return s, false
			}
			s.keyID, s.date, s.region, s.service = scope[0], scope[1], scope[2], scope[3]
		case "SignedHeaders":
			s.headers = strings.Split(value, ";")
		case "Signature":
			s.value = value
		}
	}
	return s, s.keyID != "" && s.value != "" && slices.Contains(s.headers, "host") && slices.Contains(s.headers, "x-amz-date")
}

// verify returns "" if the signature is valid for this body, service and region and was made
// with the key, and otherwise the code of AWS's error. Source: AWS General Reference,
// Signature Version 4.
func (s signature) verify(r *http.Request, body []byte, key, service, region string, now time.Time) (code string) {
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil || s.service != service || s.region != region || s.date != at.Format("20060102") {
		return "InvalidSignatureException"
	}
	if at.Sub(now).Abs() > maxSkew {
		return "InvalidSignatureException" // Signature expired, or not yet current
	}
	var canonical strings.Builder
	canonical.WriteString(r.Method + "\n" + r.URL.EscapedPath() + "\n" + r.URL.RawQuery + "\n")
	for _, name := range s.headers {
		value := strings.Join(r.Header.Values(name), ",")
		switch name {
		case "host":
			value = r.Host
		case "content-length":
			value = strconv.FormatInt(r.ContentLength, 10)
		}
		canonical.WriteString(name + ":" + strings.Join(strings.Fields(value), " ") + "\n")
	}
	canonical.WriteString("\n" + strings.Join(s.headers, ";") + "\n" + digest(body))
	text := algorithm + "\n" + r.Header.Get("X-Amz-Date") + "\n" + s.date + "/" + region + "/" + service + "/aws4_request\n" + digest([]byte(canonical.String()))
	mac := []byte("AWS4" + key)
	for _, part := range []string{s.date, region, service, "aws4_request", text} {
		mac = sign(mac, part)
	}
	if !hmac.Equal([]byte(hex.EncodeToString(mac)), []byte(s.value)) {
		return "InvalidSignatureException"
	}
	return ""
}

func sign(key []byte, text string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
