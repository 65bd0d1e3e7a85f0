package secretsmanager

import (
	"crypto/rand"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// session is one of the role.
type session struct {
	key, token string
	ends       time.Time
}

const requestID = "c0ffee00-1111-4222-8333-444455556666"

// serveSTS answers AssumeRole, for the one access key and with the one external
// ID.
func (s *Server) serveSTS(w http.ResponseWriter, r *http.Request, region string, body []byte) {
	form, err := url.ParseQuery(string(body))
	if err != nil || form.Get("Action") != "AssumeRole" {
		stsFault(w, http.StatusBadRequest, "InvalidAction", "the fake knows AssumeRole")
		return
	}
	sig, ok := parseSignature(r.Header.Get("Authorization"))
	id := s.cfg.Identity
	switch {
	case !ok:
		stsFault(w, http.StatusForbidden, "MissingAuthenticationToken", "Request is missing Authentication Token")
		return
	case sig.keyID != id.AccessKeyID:
		stsFault(w, http.StatusForbidden, "InvalidClientTokenId", "The security token included in the request is invalid.")
		return
	case sig.verify(r, body, id.SecretAccessKey, "sts", region, s.now()) != "":
		stsFault(w, http.StatusForbidden, "SignatureDoesNotMatch", "The request signature we calculated does not match the signature you provided.")
		return
	case form.Get("RoleArn") != id.RoleARN || form.Get("ExternalId") != id.ExternalID:
		stsFault(w, http.StatusForbidden, "AccessDenied", "User is not authorized to perform: sts:AssumeRole on resource: "+form.Get("RoleArn"))
		return
	}
	seconds, err := strconv.Atoi(form.Get("DurationSeconds"))
	if err != nil || seconds < 900 || seconds > 3600 {
		stsFault(w, http.StatusBadRequest, "ValidationError", "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.")
		return
	}
	keyID := "ASIA" + rand.Text()[:16]
	ses := session{key: rand.Text() + rand.Text()[:14], token: rand.Text() + rand.Text(), ends: s.now().Add(time.Duration(seconds) * time.Second)}
	s.mu.Lock()
	for old, other := range s.sessions {
		if s.now().After(other.ends) {
			delete(s.sessions, old)
		}
	}
	s.sessions[keyID] = ses
	s.mu.Unlock()
	role := id.RoleARN[strings.LastIndexByte(id.RoleARN, '/')+1:]
	name := form.Get("RoleSessionName")
	w.Header().Set("Content-Type", "text/xml")
	_, _ = fmt.Fprintf(w, `<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>`+
		`<AssumedRoleUser><AssumedRoleId>AROAEXAMPLE:%[1]s</AssumedRoleId><Arn>arn:aws:sts::%[2]s:assumed-role/%[3]s/%[1]s</Arn></AssumedRoleUser>`+
		`<Credentials><AccessKeyId>%[4]s</AccessKeyId><SecretAccessKey>%[5]s</SecretAccessKey><SessionToken>%[6]s</SessionToken><Expiration>%[7]s</Expiration></Credentials>`+
		`</AssumeRoleResult><ResponseMetadata><RequestId>%[8]s</RequestId></ResponseMetadata></AssumeRoleResponse>`,
		escape(name), id.account(), role, keyID, ses.key, ses.token, ses.ends.UTC().Format(time.RFC3339), requestID)
}

func stsFault(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "text/xml")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>%s</Code><Message>%s</Message></Error><RequestId>%s</RequestId></ErrorResponse>`,
		code, escape(message), requestID)
}

func escape(text string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(text)) // a Builder takes everything
	return b.String()
}
