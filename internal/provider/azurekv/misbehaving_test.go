package azurekv

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// misbehaviour is a way in which a vault, or a server in its position, can fail.
type misbehaviour struct {
	// begin makes the vault at host fail.
	begin func(f *fake, host string)
	want  secret.Reason // "" means that the read succeeds
	says  string
	// answers means that the server responds, so that the breaker does not count the
	// failure.
	answers bool
	hangs   bool // until the broker's timeout
}

// answering is a misbehaviour with correct TLS and HTTP/2 and a bad response to an
// authorized read.
func answering(h func(f *fake, w http.ResponseWriter, r *http.Request)) func(*fake, string) {
	return func(f *fake, host string) {
		f.serve(host, f.cert, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") == "" {
				f.serveVault(w, r)
				return
			}
			h(f, w, r)
		})
	}
}

func status(code int, kv ...string) func(*fake, string) {
	return answering(func(_ *fake, w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(kv); i += 2 {
			w.Header().Set(kv[i], kv[i+1])
		}
		providertest.WriteJSON(w, code, `{"error":{"code":"X","message":"`+canary+`"}}`)
	})
}

func misbehaviours() map[string]misbehaviour {
	const (
		unavailable = secret.ReasonStoreUnavailable
		throttled   = secret.ReasonStoreThrottled
		inTime      = "did not answer in time"
		somethingOf = "something other"
	)
	body := func(b []byte, kv ...string) func(*fake, string) {
		return answering(func(_ *fake, w http.ResponseWriter, _ *http.Request) {
			for i := 0; i < len(kv); i += 2 {
				w.Header().Set(kv[i], kv[i+1])
			}
			_, _ = w.Write(b)
		})
	}
	at := func(f *fake, host, addr string) { f.Dial[host] = addr }
	return map[string]misbehaviour{
		"down":       {func(f *fake, host string) { at(f, host, providertest.ClosedPort(f)) }, unavailable, "refuses the connection", false, false},
		"black hole": {func(f *fake, host string) { at(f, host, silent(f)) }, unavailable, inTime, false, true},
		"plain HTTP on the port": {func(f *fake, host string) {
			at(f, host, rawTCP(f, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"))
		}, unavailable, "TLS handshake", false, false},
		"expired certificate":      {func(f *fake, host string) { f.serve(host, f.expired, f.serveVault) }, unavailable, "azure.ca_file", false, false},
		"other host's certificate": {func(f *fake, host string) { f.serve(host, f.foreign, f.serveVault) }, unavailable, "azure.ca_file", false, false},

		"slow header":         {answering(func(_ *fake, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }), unavailable, inTime, false, true},
		"slow body":           {answering(drip), unavailable, inTime, false, true},
		"1xx flood":           {answering(earlyHints), unavailable, "", false, true},
		"1xx flood, HTTP/1.1": {func(f *fake, host string) { at(f, host, flood(f, "HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n")) }, unavailable, "", false, true},
		"endless header":      {func(f *fake, host string) { at(f, host, flood(f, "X: "+strings.Repeat("x", 1000)+"\r\n")) }, unavailable, "", false, true},
		"endless body":        {answering(endless), unavailable, somethingOf, true, false},
		"reset mid-body": {answering(func(_ *fake, w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, goodSecret[:20])
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler) // RST_STREAM
		}), unavailable, "closed the connection", false, false},
		"reset storm":  {answering(func(*fake, http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }), unavailable, "closed the connection", false, false},
		"GOAWAY storm": {func(f *fake, host string) { at(f, host, goAway(f)) }, unavailable, "", false, false},
		"hangs up":     {func(f *fake, host string) { at(f, host, rawTLS(f, "")) }, unavailable, "closed the connection", false, false},

		"huge":         {body([]byte(goodSecret + strings.Repeat(" ", maxBody))), unavailable, somethingOf, true, false},
		"truncated":    {body([]byte(goodSecret), "Content-Length", "9999"), unavailable, "closed the connection", false, false},
		"garbage":      {body(randomBytes(5000)), unavailable, somethingOf, true, false},
		"gzip bomb":    {body(zipped(maxBody*20), "Content-Encoding", "gzip"), unavailable, somethingOf, true, false},
		"gzip garbage": {body(randomBytes(5000), "Content-Encoding", "gzip"), unavailable, "", true, false},
		"a page":       {body([]byte("<html>"+canary), "Content-Type", "text/html"), unavailable, somethingOf, true, false},
		"wrong type":   {body([]byte(goodSecret), "Content-Type", "image/png"), "", "", true, false},
		"wrong id":     {body([]byte(strings.Replace(goodSecret, "/db/", "/dc/", 1))), unavailable, somethingOf, true, false},
		"wrong vault":  {body([]byte(strings.Replace(goodSecret, vaultHost, otherHost, 1))), unavailable, somethingOf, true, false},
		"deep nesting": {body([]byte(strings.Repeat("[", maxBody-1))), unavailable, somethingOf, true, false},

		"500":                  {status(500), unavailable, "HTTP 500", false, false},
		"503":                  {status(503), unavailable, "HTTP 503", false, false},
		"503, huge wait":       {status(503, "Retry-After", "99999999999999999999"), unavailable, "HTTP 503", false, false},
		"503, wait of an hour": {status(503, "Retry-After", "3600"), unavailable, "HTTP 503", false, false},
		"429, no wait":         {status(429), throttled, "", true, false},
		"429, negative":        {status(429, "Retry-After", "-1"), throttled, "", true, false},
		"429, huge":            {status(429, "Retry-After", "4294967295"), throttled, "", true, false},
		"429, overflow":        {status(429, "Retry-After", "99999999999999999999"), throttled, "", true, false},
		"429, fraction":        {status(429, "Retry-After", "0.5"), throttled, "", true, false},
		"429, past date":       {status(429, "Retry-After", "Mon, 02 Jan 2006 15:04:05 GMT"), throttled, "", true, false},
		"429, far date":        {status(429, "Retry-After", "Fri, 31 Dec 9999 23:59:59 GMT"), throttled, "", true, false},
		"429, no date":         {status(429, "Retry-After", "next week"), throttled, "", true, false},
	}
}

// TestMisbehavingVault reads a failing vault repeatedly through a Set, and at the
// same time a healthy vault of the same integration and another integration. The
// failing vault's reads return its reason while their callers still have time, and
// the other reads are not affected.
func TestMisbehavingVault(t *testing.T) {
	for name, m := range misbehaviours() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			m.begin(f, vaultHost)
			cfg := f.Config()
			cfg.TryTimeout = 15 * time.Second // not reached, unless the server hangs
			if m.hangs {
				cfg.TryTimeout = 2 * time.Second
			}
			set := f.set(cfg)
			bad, other := f.integration(), f.integration()
			other.ID, settingsOf(other).Vaults = "other", []string{otherURL}
			settingsOf(other).Dial = map[string]string{otherHost: f.Dial[otherHost], loginHost: f.Dial[loginHost]}

			const rounds = 8 // more failures than open the breaker
			db := providertest.Ref(t, vaultURL+"::db")
			var wg sync.WaitGroup
			var told atomic.Int32 // errors with the expected message
			for range rounds {
				wg.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
					defer cancel()
					sec, err := set.Fetch(ctx, bad, db)
					if ctx.Err() != nil {
						t.Error("no error before the caller's time was over")
					}
					if m.want == "" {
						if err != nil || providertest.Reveal(t, sec) != canary {
							t.Errorf("got %v, %v", sec, err)
						}
						return
					}
					if err == nil {
						t.Errorf("got %v, want %s", sec, m.want)
						return
					}
					e := f.CheckError(err, m.want)
					switch {
					case strings.Contains(e.Message, m.says):
						told.Add(1)
					case m.answers || !strings.Contains(e.Message, "stopped reading it"): // the breaker's message
						t.Errorf("message %q does not say %q", e.Message, m.says)
					}
				})
				wg.Go(func() {
					for _, good := range []*integration.Integration{bad, other} {
						if _, err := set.Fetch(t.Context(), good, providertest.Ref(t, otherURL+"::db")); err != nil {
							t.Errorf("a good vault through %s: %v", good.ID, err)
						}
					}
				})
			}
			wg.Wait()
			if m.want != "" && told.Load() == 0 {
				t.Errorf("nobody was told %q", m.says)
			}
			if tripped := set.Stats(secret.KindAzureKeyVault).Trips > 0; tripped == (m.answers || m.want == "") {
				t.Errorf("taken for dead: %v", tripped)
			}
			if len(f.elsewhere) != 0 {
				t.Error("a request went elsewhere")
			}
		})
	}
}

// TestMisbehavingLogin does the same with the login authority.
func TestMisbehavingLogin(t *testing.T) {
	login := func(h http.HandlerFunc) func(*fake) { return func(f *fake) { f.token = h } }
	answer := func(status int, body string) func(*fake) {
		return login(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		})
	}
	token := func(claims string) string {
		part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
		return `{"token_type":"Bearer","expires_in":3600,"access_token":"` + part(`{"alg":"RS256"}`) + "." + part(claims) + ".access-token-x\"}"
	}
	for name, tc := range map[string]struct {
		begin func(*fake)
		want  secret.Reason
		says  string
		hangs bool
	}{
		"down":        {func(f *fake) { f.Dial[loginHost] = providertest.ClosedPort(f) }, secret.ReasonStoreUnavailable, "login authority", false},
		"black hole":  {func(f *fake) { f.Dial[loginHost] = silent(f) }, secret.ReasonStoreUnavailable, "login authority", true},
		"hangs":       {login(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }), secret.ReasonStoreUnavailable, "login authority", true},
		"slow body":   {login(func(w http.ResponseWriter, r *http.Request) { drip(nil, w, r) }), secret.ReasonStoreUnavailable, "login authority", true},
		"500":         {answer(500, canary), secret.ReasonStoreUnavailable, "HTTP 500", false},
		"429":         {answer(429, canary), secret.ReasonStoreUnavailable, "HTTP 429", false},
		"garbage":     {answer(200, canary), secret.ReasonStoreUnavailable, "something other than an access token", false},
		"empty":       {answer(200, "{}"), secret.ReasonStoreUnavailable, "something other than an access token", false},
		"huge":        {answer(200, `{"access_token":"`+strings.Repeat("x", maxBody)+`"}`), secret.ReasonStoreUnavailable, "something other than an access token", false},
		"refuses":     {answer(401, `{"error":"invalid_client","error_description":"AADSTS7000215: `+canary+`"}`), secret.ReasonStoreAuthenticationFailed, "AADSTS7000215", false},
		"no lifetime": {answer(200, `{"token_type":"Bearer","expires_in":-5,"access_token":"access-token-1"}`), "", "", false},
		// The vault's clock is slow, so the token's start is in the vault's future.
		"token of the future": {func(f *fake) {
			answer(200, token(fmt.Sprintf(`{"nbf":%d}`, time.Now().Add(time.Hour).Unix())))(f)
			f.vault = func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("WWW-Authenticate", f.challenge+`, error="invalid_token", error_description="AKV10022: `+canary+`"`)
				providertest.WriteJSON(w, http.StatusUnauthorized, `{"error":{"code":"Unauthorized","message":"AKV10022: token not yet valid"}}`)
			}
		}, secret.ReasonStoreAuthenticationFailed, "clocks", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, elsewhere := newFake(t), newFake(t)
			good := elsewhere.integration()
			good.ID = "other"
			tc.begin(f)
			cfg := f.Config()
			cfg.TryTimeout, cfg.LoginTimeout = 15*time.Second, 15*time.Second
			if tc.hangs {
				cfg.TryTimeout = 2 * time.Second
			}
			set := f.set(cfg)
			bad := f.integration()
			done := make(chan struct{})
			go func() {
				defer close(done)
				if _, err := set.Fetch(t.Context(), good, providertest.Ref(t, vaultURL+"::db")); err != nil {
					t.Errorf("another integration: %v", err)
				}
			}()
			defer func() { <-done }()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			_, err := set.Fetch(ctx, bad, providertest.Ref(t, vaultURL+"::db"))
			if tc.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || ctx.Err() != nil {
				t.Fatalf("got %v, context %v", err, ctx.Err())
			}
			if e := f.CheckError(err, tc.want); !strings.Contains(e.Message, tc.says) {
				t.Errorf("message %q does not say %q", e.Message, tc.says)
			}
		})
	}
}

// set returns a Set of Azure integrations.
func (f *fake) set(cfg provider.Config) *provider.Set {
	set := provider.NewSet(provider.SetConfig{
		Openers: map[secret.Kind]provider.Opener{secret.KindAzureKeyVault: Opener(cfg)},
		Logger:  cfg.Logger,
	})
	f.Cleanup(func() {
		if err := set.Close(); err != nil {
			f.Error(err)
		}
	})
	return set
}
