package providertest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// canary is part of every value that the suite stores, and must not occur in an error
// or a log.
const canary = "CANARY-v4lue-that-must-not-leak"

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	all := cases()
	for _, name := range slices.Sorted(maps.Keys(h.Exceptions)) {
		if _, ok := all[name]; !ok || h.Exceptions[name] == "" {
			t.Errorf("exception %q: there is no such case, or no reason is given", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		t.Run(name, func(t *testing.T) {
			if why := h.Exceptions[name]; why != "" {
				t.Skip("exception: " + why)
			}
			s := &suite{T: t, World: h.Start(t), biggest: h.Biggest}
			all[name](s)
			s.clean("the log", s.log())
		})
	}
}

// cases returns the suite's cases by name. Exceptions refer to these names.
func cases() map[string]func(*suite) {
	return map[string]func(*suite){
		"present": present, "json": document, "missing": missing, "versions": versions, "missing version": missingVersion,
		"binary": binary, "biggest": biggest, "empty": empty, "unicode": unicode,
		"disabled": state(Disabled, secret.ReasonSecretDisabled), "destroyed": destroyed,
		"deleted": state(Deleted, secret.ReasonSecretNotFound), "expired": state(Expired, secret.ReasonSecretExpired),
		"not yet valid": state(NotYetValid, secret.ReasonSecretNotYetValid),
		"forbidden":     state(Forbidden, secret.ReasonStoreAccessDenied),
		"throttled":     throttled, "silent": silent, "unreachable": unreachable, "failing": failing,
		"redirecting": answeredUselessly(Redirecting), "garbling": answeredUselessly(Garbling), "confusing": answeredUselessly(Confusing),
		"credential refused": credentialRefused, "credential revoked": credentialRevoked,
		"cancelled": cancelled, "concurrent": concurrent, "foreign store": foreignStore, "made by hand": madeByHand,
		"recovers": recovers,
	}
}

// suite is one case's view of its World.
type suite struct {
	*testing.T
	*World
	biggest int
}

// open opens the integration's provider for the rest of the case.
func (s *suite) open() provider.Provider {
	s.Helper()
	p, err := s.Opener(s.Context(), s.Integration)
	if err != nil {
		s.Fatalf("open: %v", err)
	}
	s.Cleanup(func() {
		if err := p.Close(); err != nil {
			s.Errorf("Close: %v", err)
		}
	})
	return p
}

// text returns a value, a different one for each name.
func (s *suite) text(name string) string {
	text := canary + " of " + name
	if s.Document != nil {
		return s.Document(text)
	}
	return text
}

func (s *suite) put(name string) (version string) {
	s.Helper()
	return s.Put(s.T, name, []byte(s.text(name)))
}

func (s *suite) ref(name string) secret.Ref { return s.parse(s.Ref(name)) }

func (s *suite) parse(text string) secret.Ref {
	s.Helper()
	r, err := secret.ParseRef(text)
	if err != nil {
		s.Fatalf("ParseRef(%q): %v", text, err)
	}
	if r.Kind != s.Integration.Kind {
		s.Fatalf("ParseRef(%q) is of kind %s, want %s", text, r.Kind, s.Integration.Kind)
	}
	return r
}

// gives expects a value.
func (s *suite) gives(p provider.Provider, ref secret.Ref, want string) *secret.Secret {
	s.Helper()
	got, err := p.Fetch(s.Context(), ref)
	if err != nil {
		s.Fatalf("Fetch(%s): %v", ref, err)
	}
	s.is(got, want)
	return got
}

func (s *suite) is(got *secret.Secret, want string) {
	s.Helper()
	v, err := got.Select("")
	if err != nil {
		s.Fatalf("Select: %v", err)
	}
	if text := string(v.RevealBytes()); text != want { //nolint:forbidigo // a test's own value
		s.Errorf("a value of %d bytes that is not the one put (%d bytes)", len(text), len(want))
	}
}

// fails is like failure, for callers that do not need the error.
func (s *suite) fails(p provider.Provider, ref secret.Ref, want ...secret.Reason) {
	s.Helper()
	_ = s.failure(p, ref, want...) // failure has checked it
}

// failure expects an error with one of the reasons, and checks that it quotes
// nothing.
func (s *suite) failure(p provider.Provider, ref secret.Ref, want ...secret.Reason) *secret.Error {
	s.Helper()
	got, err := p.Fetch(s.Context(), ref)
	if err == nil {
		s.Fatalf("Fetch(%s) gave version %s, want %v", ref, got.Version, want)
	}
	if got != nil {
		s.Errorf("a secret beside the error %v", err)
	}
	var e *secret.Error
	if !errors.As(err, &e) {
		s.Fatalf("error of type %T: %v", err, err)
	}
	if !slices.Contains(want, e.Reason) {
		s.Fatalf("reason %s, want %v: %v", e.Reason, want, err)
	}
	if e.Message == "" {
		s.Error("no message")
	}
	for c := err; c != nil; c = errors.Unwrap(c) {
		s.clean("the error", fmt.Sprintf("%v\n%+v\n%#v\n", c, c, c))
	}
	s.clean("the log", s.log())
	return e
}

func (s *suite) log() string {
	if s.Log == nil {
		return ""
	}
	return s.Log()
}

func (s *suite) clean(where, text string) {
	s.Helper()
	for _, word := range append([]string{canary}, s.Private...) {
		if word != "" && strings.Contains(text, word) {
			s.Errorf("%s holds what must not leave:\n%s", where, text)
		}
	}
}

// impatient sets the integration's shortest timeout, so that cases without a response
// end soon.
func (s *suite) impatient() { s.Integration.Reads.Timeout = 3 * time.Second }
