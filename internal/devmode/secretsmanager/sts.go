package secretsmanager

import (
	"cmp"
	"crypto/rand"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// key is the secret part of an access key: of the Identity, or of a session.
type key struct {
	secret, token string
	role          string // of a session, "" for the Identity's key
	ends          time.Time
}

const requestID = "c0ffee00-1111-4222-8333-444455556666"

// stsCodes maps error codes of Secrets Manager to those of STS.
var stsCodes = map[string]string{
	"MissingAuthenticationTokenException": "MissingAuthenticationToken",
	"UnrecognizedClientException":         "InvalidClientTokenId",
	"ExpiredTokenException":               "ExpiredToken",
	"InvalidSignatureException":           "SignatureDoesNotMatch",
}

// serveSTS answers AssumeRole for the configured role and external ID, and
// AssumeRoleWithWebIdentity for the configured token.
func (s *Server) serveSTS(w http.ResponseWriter, r *http.Request, state *State, region string, body []byte) {
	fault := func(status int, code, message string) { stsFault(w, status, code, message+state.ErrorNote) }
	form, err := url.ParseQuery(string(body))
	id, action, role := state.Identity, form.Get("Action"), form.Get("RoleArn")
	switch {
	case err == nil && action == "AssumeRole":
		signer, code := s.authenticate(r, state, "sts", region, body)
		if code != "" {
			fault(http.StatusForbidden, stsCodes[code], invalidSignature)
			return
		}
		if role != id.RoleARN || form.Get("ExternalId") != id.ExternalID || signer.role == role {
			fault(http.StatusForbidden, "AccessDenied", "User is not authorized to perform: sts:AssumeRole on resource: "+role)
			return
		}
	case err == nil && action == "AssumeRoleWithWebIdentity":
		if id.WebIdentityToken == "" || form.Get("WebIdentityToken") != id.WebIdentityToken || r.Header.Get("Authorization") != "" {
			fault(http.StatusBadRequest, "InvalidIdentityToken", "The web identity token could not be validated.")
			return
		}
	default:
		fault(http.StatusBadRequest, "InvalidAction", "the fake knows AssumeRole and AssumeRoleWithWebIdentity")
		return
	}
	seconds, err := strconv.Atoi(cmp.Or(form.Get("DurationSeconds"), "3600"))
	if err != nil || seconds < 900 || seconds > 3600 {
		fault(http.StatusBadRequest, "ValidationError", "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.")
		return
	}
	s.issue(w, action, role, form.Get("RoleSessionName"), time.Duration(seconds)*time.Second)
}

// issue writes the keys of a new session. Their secrets are recognizable in a log.
func (s *Server) issue(w http.ResponseWriter, action, role, name string, life time.Duration) {
	keyID := "ASIA" + rand.Text()[:16]
	ses := key{secret: "session-secret-" + rand.Text(), token: "session-token-" + rand.Text() + rand.Text(), role: role, ends: s.now().Add(life)}
	s.mu.Lock()
	for old, other := range s.sessions {
		if s.now().After(other.ends) {
			delete(s.sessions, old)
		}
	}
	s.sessions[keyID] = ses
	s.mu.Unlock()
	w.Header().Set("Content-Type", "text/xml")
	_, _ = fmt.Fprintf(w, `<%[9]sResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><%[9]sResult>`+
		`<AssumedRoleUser><AssumedRoleId>AROAEXAMPLE:%[1]s</AssumedRoleId><Arn>arn:aws:sts::%[2]s:assumed-role/%[3]s/%[1]s</Arn></AssumedRoleUser>`+
		`<Credentials><AccessKeyId>%[4]s</AccessKeyId><SecretAccessKey>%[5]s</SecretAccessKey><SessionToken>%[6]s</SessionToken><Expiration>%[7]s</Expiration></Credentials>`+
		`</%[9]sResult><ResponseMetadata><RequestId>%[8]s</RequestId></ResponseMetadata></%[9]sResponse>`,
		escape(name), escape(Identity{RoleARN: role}.account()), escape(role[strings.LastIndexByte(role, '/')+1:]), keyID, ses.secret, ses.token, ses.ends.UTC().Format(time.RFC3339), requestID, action)
}

func stsFault(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "text/xml")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>%s</Code><Message>%s</Message></Error><RequestId>%s</RequestId></ErrorResponse>`,
		code, escape(message), requestID)
}

func escape(text string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(text)) // writes to a Builder do not fail
	return b.String()
}
