package gcpsm

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
)

// apiError holds the parts of an error response that are safe to log. It contains no
// free text of the server.
type apiError struct {
	status int
	// code is the canonical code of the response, such as "PERMISSION_DENIED", or an
	// OAuth error, such as "invalid_grant".
	code string
	// reason is the reason in the response's ErrorInfo, such as "SERVICE_DISABLED".
	reason string
	// state is the state of the version according to the response, such as
	// "DISABLED".
	state      string
	retryAfter time.Duration
}

func (e *apiError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "HTTP %d", e.status)
	for _, f := range []struct{ name, text string }{{"code", e.code}, {"reason", e.reason}, {"state", e.state}} {
		if f.text != "" {
			fmt.Fprintf(&b, ", %s %s", f.name, f.text)
		}
	}
	return b.String()
}

// versionState matches Secret Manager's message about a version that cannot be
// accessed: "Secret Version [projects/N/secrets/S/versions/V] is in DISABLED state."
// The response has no field for the state.
var versionState = regexp.MustCompile(`\bis in ([A-Z_]{1,32}) state\b`)

// parseError parses an error response of an API (AIP-193) or of OAuth (RFC 6749,
// section 5.2).
func parseError(status int, header http.Header, body []byte) *apiError {
	e := &apiError{status: status, retryAfter: storeerror.RetryAfter(header)}
	var doc struct {
		Error json.RawMessage `json:"error"`
	}
	if json.Unmarshal(body, &doc) != nil {
		return e
	}
	var oauth string
	if json.Unmarshal(doc.Error, &oauth) == nil {
		e.code = storeerror.Plain(oauth)
		return e
	}
	var api struct {
		Status  string `json:"status"`
		Message string `json:"message"`
		Details []struct {
			Type       string `json:"@type"`
			Reason     string `json:"reason"`
			RetryDelay string `json:"retryDelay"`
			Violations []struct {
				Type string `json:"type"`
			} `json:"violations"`
		} `json:"details"`
	}
	if json.Unmarshal(doc.Error, &api) != nil {
		return e
	}
	e.code = storeerror.Plain(api.Status)
	for _, d := range api.Details {
		_, kind, _ := strings.Cut(d.Type, "/google.rpc.")
		switch kind {
		case "ErrorInfo":
			e.reason = storeerror.Plain(d.Reason)
		case "RetryInfo":
			if wait, err := time.ParseDuration(d.RetryDelay); err == nil && wait > 0 {
				e.retryAfter = min(wait, storeerror.MaxRetryAfter)
			}
		case "PreconditionFailure": // older responses of VPC Service Controls have only this
			if len(d.Violations) > 0 && e.reason == "" {
				e.reason = storeerror.Plain(d.Violations[0].Type)
			}
		}
	}
	if m := versionState.FindStringSubmatch(api.Message); m != nil {
		e.state = m[1]
	}
	return e
}
