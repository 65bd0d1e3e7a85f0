package azurekv

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// TestValidate: each step reports what it found, and no value is read.
func TestValidate(t *testing.T) {
	notFound := func(w http.ResponseWriter, r *http.Request) {
		if r.Host == otherHost {
			providertest.WriteJSON(w, http.StatusForbidden, `{"error":{"code":"Forbidden","message":"x","innererror":{"code":"ForbiddenByRbac"}}}`)
			return
		}
		providertest.WriteJSON(w, http.StatusNotFound, `{"error":{"code":"SecretNotFound","message":"x"}}`)
	}
	badClient := func(w http.ResponseWriter, _ *http.Request) {
		providertest.WriteJSON(w, http.StatusUnauthorized, `{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret"}`)
	}
	for _, tt := range []struct {
		name  string
		token http.HandlerFunc
		want  string // "step reason|ok|skipped" of each step
		reads int
	}{
		{"a vault without the role", nil, "token ok, read " + vaultURL + " ok, read " + otherURL + " STORE_ACCESS_DENIED", 2},
		{"a wrong client secret", badClient, "token STORE_AUTHENTICATION_FAILED, read " + vaultURL + " skipped, read " + otherURL + " skipped", 0},
	} {
		f := newFake(t)
		f.vault = notFound
		if tt.token != nil {
			f.token = tt.token
		}
		s := f.open(f.Config(), f.integration())
		var got []string
		for _, step := range s.Validate(t.Context()) {
			result := "ok"
			switch {
			case step.Skipped:
				result = "skipped"
			case step.Err != nil:
				e := secret.AsError(step.Err)
				result = string(e.Reason)
				f.CheckClean("a step", e.Error())
			}
			got = append(got, fmt.Sprint(step.String(), " ", result))
		}
		if text := strings.Join(got, ", "); text != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, text, tt.want)
		}
		if _, reads := f.counts(); reads != tt.reads {
			t.Errorf("%s: %d reads, want %d", tt.name, reads, tt.reads)
		}
	}
}
