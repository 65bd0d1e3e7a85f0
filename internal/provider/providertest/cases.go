package providertest

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/secret"
)

func present(s *suite) {
	version := s.put("db")
	began := time.Now()
	got := s.gives(s.open(), s.ref("db"), s.text("db"))
	if got.Version == "" || got.Version != version {
		s.Errorf("version %q, want %q", got.Version, version)
	}
	if got.FetchedAt.Before(began) || got.FetchedAt.After(time.Now()) {
		s.Error("FetchedAt is not the time at which the read began")
	}
}

func document(s *suite) {
	s.Put(s.T, "db", []byte(`{"user": "u", "password": "`+canary+`", "n": {"a": [1, 2]}, "a.b": true}`))
	got, err := s.open().Fetch(s.Context(), s.ref("db"))
	if err != nil {
		s.Fatal(err)
	}
	for key, want := range map[string]string{"user": "u", "password": canary, "n": `{"a":[1,2]}`, "a.b": "true"} {
		v, err := got.Select(key)
		if err != nil {
			s.Fatalf("member %s: %v", key, err)
		}
		if v.Reveal() != want { //nolint:forbidigo // a test's own value
			s.Errorf("member %s is not what was put", key)
		}
	}
	if _, err := got.Select("none"); secret.AsError(err).Reason != secret.ReasonJSONKeyNotFound {
		s.Errorf("a member that is not there: %v", err)
	}
}

func missing(s *suite) {
	s.put("db")
	p := s.open()
	s.fails(p, s.ref("nobody"), secret.ReasonSecretNotFound)
	s.gives(p, s.ref("db"), s.text("db"))
}

func versions(s *suite) {
	first := s.Put(s.T, "db", []byte(s.text("the first")))
	second := s.Put(s.T, "db", []byte(s.text("the second")))
	if first == second {
		s.Fatalf("both versions are %q", first)
	}
	p := s.open()
	for _, tt := range []struct{ ref, value, version string }{
		{s.Ref("db"), "the second", second},
		{s.Ref("db") + "#" + second, "the second", second},
		{s.Ref("db") + "#" + first, "the first", first},
	} {
		if got := s.gives(p, s.parse(tt.ref), s.text(tt.value)); got.Version != tt.version {
			s.Errorf("%s: version %q, want %q", tt.ref, got.Version, tt.version)
		}
	}
}

func missingVersion(s *suite) {
	s.put("db")
	s.fails(s.open(), s.parse(s.Ref("db")+"#"+s.UnknownVersion), secret.ReasonSecretNotFound)
}

// binary: a value that is not text is encoded as base64, which ?decode=base64
// decodes.
func binary(s *suite) {
	value := []byte("\xfe\xed\xfe\xed\x00\x01" + canary + "\xff")
	s.Put(s.T, "keystore", value)
	s.gives(s.open(), s.ref("keystore"), base64.StdEncoding.EncodeToString(value))
}

func biggest(s *suite) {
	value := canary
	if s.Document != nil {
		value = s.Document(canary)
	}
	value = strings.Replace(value, canary, canary+strings.Repeat("x", s.biggest-len(value)), 1)
	s.Put(s.T, "big", []byte(value))
	s.gives(s.open(), s.ref("big"), value)
}

func empty(s *suite) {
	s.Put(s.T, "empty", nil)
	s.gives(s.open(), s.ref("empty"), "")
}

func unicode(s *suite) {
	value := "pässwörd \u65e5\u672c \U0001f511 \"quoted\" \\ \t tab\nline " + canary
	if s.Document != nil {
		value = s.Document(value)
	}
	s.Put(s.T, "text", []byte(value))
	s.gives(s.open(), s.ref("text"), value)
}

func state(state State, want secret.Reason) func(*suite) {
	return func(s *suite) {
		s.put("db")
		s.put("other")
		s.Become(s.T, "db", state)
		p := s.open()
		s.fails(p, s.ref("db"), want)
		s.gives(p, s.ref("other"), s.text("other"))
	}
}

// destroyed: the newest version is gone for good. No older version replaces it.
func destroyed(s *suite) {
	s.Put(s.T, "db", []byte(s.text("the first")))
	s.Put(s.T, "db", []byte(s.text("the second")))
	s.Become(s.T, "db", Destroyed)
	s.fails(s.open(), s.ref("db"), secret.ReasonSecretDisabled, secret.ReasonSecretNotFound)
}

// mostReads is how often one Fetch may send a request to a failing store: one attempt
// and two retries.
const mostReads = 3

func throttled(s *suite) {
	s.put("db")
	p := s.open()
	s.gives(p, s.ref("db"), s.text("db"))
	s.Suffer(s.T, Throttling)
	before := s.Reads()
	e := s.failure(p, s.ref("db"), secret.ReasonStoreThrottled)
	if e.RetryAfter <= 0 {
		s.Error("callers are not told how long to wait")
	}
	if n := s.Reads() - before; n != 1 {
		s.Errorf("a store that throttles was asked %d times, want once: its pace is the caller's business", n)
	}
}

// silent: the store accepts requests and does not respond. Fetch ends by itself.
func silent(s *suite) {
	s.put("db")
	s.impatient()
	p := s.open()
	s.gives(p, s.ref("db"), s.text("db"))
	s.Suffer(s.T, Silent)
	e := s.failure(p, s.ref("db"), secret.ReasonStoreUnavailable)
	if errors.Is(e, storeerror.ErrAnswered) {
		s.Error("silence is taken for an answer")
	}
}

func unreachable(s *suite) {
	s.put("db")
	p := s.open()
	s.Suffer(s.T, Unreachable)
	e := s.failure(p, s.ref("db"), secret.ReasonStoreUnavailable)
	if errors.Is(e, storeerror.ErrAnswered) {
		s.Error("what cannot be reached is said to have answered")
	}
}

func failing(s *suite) {
	s.put("db")
	p := s.open()
	s.gives(p, s.ref("db"), s.text("db"))
	s.Suffer(s.T, Failing)
	before := s.Reads()
	s.fails(p, s.ref("db"), secret.ReasonStoreUnavailable)
	if n := s.Reads() - before; n < 1 || n > mostReads {
		s.Errorf("a store that fails was asked %d times, want 1 to %d", n, mostReads)
	}
}

// answeredUselessly: a server in front of the store responds, but with nothing that
// can be served.
func answeredUselessly(trouble Trouble) func(*suite) {
	return func(s *suite) {
		s.put("db")
		s.put("other")
		p := s.open()
		s.gives(p, s.ref("db"), s.text("db"))
		s.Suffer(s.T, trouble)
		e := s.failure(p, s.ref("db"), secret.ReasonStoreUnavailable)
		if !errors.Is(e, storeerror.ErrAnswered) {
			s.Errorf("an answer, if a useless one, is taken for silence: %v", e)
		}
	}
}

func credentialRefused(s *suite) {
	s.put("db")
	s.Login(s.T, Refused)
	s.fails(s.open(), s.ref("db"), secret.ReasonStoreAuthenticationFailed)
}

// credentialRevoked: the store refuses an issued token before its end. One new login
// succeeds.
func credentialRevoked(s *suite) {
	s.put("db")
	p := s.open()
	s.gives(p, s.ref("db"), s.text("db"))
	s.Login(s.T, Revoked)
	s.gives(p, s.ref("db"), s.text("db"))
}

// cancelled: a cancelled caller returns at once, and does not cancel another caller.
func cancelled(s *suite) {
	s.put("db")
	p := s.open()
	s.gives(p, s.ref("db"), s.text("db"))
	s.Suffer(s.T, Silent)
	ctx, cancel := context.WithCancel(s.Context())
	done := make(chan *secret.Error, 1)
	before := s.Reads()
	go func() {
		_, err := p.Fetch(ctx, s.ref("db"))
		done <- secret.AsError(err)
	}()
	for s.Reads() == before { // until the request has arrived
		select {
		case e := <-done:
			s.Fatalf("ended before it was cancelled: %v", e)
		case <-time.After(time.Millisecond):
		}
	}
	cancel()
	if e := <-done; e.Reason != secret.ReasonStoreUnavailable || !errors.Is(e, context.Canceled) {
		s.Errorf("got %v, want %s because of the cancellation", e, secret.ReasonStoreUnavailable)
	}
}

func concurrent(s *suite) {
	const secrets, readers = 8, 8
	for i := range secrets {
		s.put(nameOf(i))
	}
	p := s.open()
	var wg sync.WaitGroup
	for i := range secrets * readers {
		wg.Go(func() {
			name := nameOf(i % secrets)
			got, err := p.Fetch(s.Context(), s.ref(name))
			if err != nil {
				s.Errorf("%s: %v", name, err)
				return
			}
			s.is(got, s.text(name))
		})
	}
	wg.Wait()
}

func nameOf(i int) string { return "db-" + strings.Repeat("i", i+1) }

func foreignStore(s *suite) {
	s.put("db")
	p := s.open()
	before := s.Reads()
	s.fails(p, s.parse(s.Foreign), secret.ReasonStoreNotAllowed)
	if n := s.Reads() - before; n != 0 {
		s.Errorf("%d requests left for a store that the integration does not list", n)
	}
}

// madeByHand: only a Ref from the parser reaches the store, whatever the caller
// passes.
func madeByHand(s *suite) {
	s.put("db")
	p := s.open()
	before := s.Reads()
	for _, name := range []string{"..", "../db", "db/../other", "a//b", "db?x=1", "db#1", "", "db\x00", "%2e%2e"} {
		ref := s.ref("db")
		ref.Name = name
		s.fails(p, ref, secret.ReasonInvalidReference)
	}
	if n := s.Reads() - before; n != 0 {
		s.Errorf("%d requests left for references that were not parsed", n)
	}
}

// recovers: after each trouble the same provider can read again.
func recovers(s *suite) {
	s.put("db")
	p := s.open()
	for _, trouble := range []Trouble{Throttling, Failing, Garbling, Redirecting} {
		s.Suffer(s.T, trouble)
		if _, err := p.Fetch(s.Context(), s.ref("db")); err == nil {
			s.Errorf("%s: no error", trouble)
		}
		s.Suffer(s.T, "")
		if _, err := p.Fetch(s.Context(), s.ref("db")); err != nil {
			s.Error(fmt.Errorf("after %s: %w", trouble, err))
		}
	}
}
