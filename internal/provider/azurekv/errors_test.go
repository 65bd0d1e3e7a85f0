package azurekv

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// TestVaultAnswers puts the canary into every response where text is possible.
func TestVaultAnswers(t *testing.T) {
	forbidden := func(inner string) string {
		return fmt.Sprintf(`{"error":{"code":"Forbidden","message":"%s Caller: appid=%s;oid=%s;iss=x","innererror":{"code":%q}}}`,
			canary, clientID, tenantID, inner)
	}
	plainError := func(code string) string { return fmt.Sprintf(`{"error":{"code":%q,"message":%q}}`, code, canary) }
	for name, tc := range map[string]struct {
		status int
		header string // "Name: value"
		body   string
		want   secret.Reason
		says   string
		retry  time.Duration
		reads  int
	}{
		"not found":         {404, "", plainError("SecretNotFound"), secret.ReasonSecretNotFound, "no secret with that name", 0, 1},
		"disabled":          {403, "", forbidden("SecretDisabled"), secret.ReasonSecretDisabled, "disabled", 0, 1},
		"disabled in case":  {403, "", strings.ReplaceAll(forbidden("SECRETDISABLED"), "innererror", "innerError"), secret.ReasonSecretDisabled, "disabled", 0, 1},
		"no role":           {403, "", forbidden("ForbiddenByRbac"), secret.ReasonStoreAccessDenied, "Key Vault Secrets User", 0, 1},
		"no policy":         {403, "", forbidden("AccessDenied"), secret.ReasonStoreAccessDenied, `permission "Get"`, 0, 1},
		"firewall":          {403, "", forbidden("ForbiddenByFirewall"), secret.ReasonStoreAccessDenied, "firewall of vault", 0, 1},
		"private only":      {403, "", forbidden("ForbiddenByConnection"), secret.ReasonStoreAccessDenied, "private endpoint", 0, 1},
		"forbidden":         {403, "", plainError("Forbidden"), secret.ReasonStoreAccessDenied, "denies", 0, 1},
		"forbidden, HTML":   {403, "", "<p>" + canary, secret.ReasonStoreAccessDenied, "denies", 0, 1},
		"throttled":         {429, "", plainError("Throttled"), secret.ReasonStoreThrottled, "throttles", time.Second, 1},
		"throttled, s":      {429, "Retry-After: 7", plainError("Throttled"), secret.ReasonStoreThrottled, "throttles", 7 * time.Second, 1},
		"throttled, ms":     {429, "retry-after-ms: 250", plainError("Throttled"), secret.ReasonStoreThrottled, "throttles", 250 * time.Millisecond, 1},
		"throttled, x-ms":   {429, "x-ms-retry-after-ms: 1500", plainError("Throttled"), secret.ReasonStoreThrottled, "throttles", 1500 * time.Millisecond, 1},
		"throttled, hours":  {429, "Retry-After: 7200", plainError("Throttled"), secret.ReasonStoreThrottled, "throttles", time.Minute, 1},
		"throttled, absurd": {429, "Retry-After: -5", plainError("Throttled"), secret.ReasonStoreThrottled, "throttles", time.Second, 1},
		"timeout":           {408, "", plainError("x"), secret.ReasonStoreUnavailable, "HTTP 408", 0, 3},
		"internal error":    {500, "", plainError("InternalError"), secret.ReasonStoreUnavailable, "HTTP 500", 0, 3},
		"bad gateway":       {502, "", "<p>" + canary, secret.ReasonStoreUnavailable, "HTTP 502", 0, 3},
		"unavailable":       {503, "", plainError("x"), secret.ReasonStoreUnavailable, "HTTP 503", 0, 3},
		"unavailable, wait": {503, "Retry-After: 9", plainError("x"), secret.ReasonStoreUnavailable, "HTTP 503", 9 * time.Second, 1},
		"gateway timeout":   {504, "", plainError("x"), secret.ReasonStoreUnavailable, "HTTP 504", 0, 3},
		"not implemented":   {501, "", plainError("x"), secret.ReasonStoreUnavailable, "HTTP 501", 0, 1},
		"bad request":       {400, "", plainError("BadParameter"), secret.ReasonStoreUnavailable, "something other", 0, 1},
		"code in header":    {404, "x-ms-error-code: " + canary + "!", "", secret.ReasonSecretNotFound, "", 0, 1},
		"odd request id":    {404, "x-ms-request-id: " + canary + " x", "", secret.ReasonSecretNotFound, "", 0, 1},
		"redirect":          {307, "Location: https://" + strangers + "/secrets/db", canary, secret.ReasonStoreUnavailable, "redirect", 0, 1},
		"redirect, same":    {302, "Location: " + vaultURL + "/secrets/dc", canary, secret.ReasonStoreUnavailable, "redirect", 0, 1},
		"created":           {201, "", goodSecret, secret.ReasonStoreUnavailable, "something other", 0, 1},
		"no content":        {204, "", "", secret.ReasonStoreUnavailable, "something other", 0, 1},
		"empty":             {200, "", "", secret.ReasonStoreUnavailable, "something other", 0, 1},
		"garbage":           {200, "", "<html>" + canary, secret.ReasonStoreUnavailable, "something other", 0, 1},
		"bare string":       {200, "", `"` + canary + `"`, secret.ReasonStoreUnavailable, "something other", 0, 1},
		"null":              {200, "", "null", secret.ReasonStoreUnavailable, "something other", 0, 1},
		"value a number":    {200, "", strings.Replace(goodSecret, `"`+canary+`"`, "4711", 1), secret.ReasonStoreUnavailable, "something other", 0, 1},
		"value null":        {200, "", strings.Replace(goodSecret, `"`+canary+`"`, "null", 1), secret.ReasonStoreUnavailable, "has no value", 0, 1},
		"half":              {200, "", goodSecret[:len(goodSecret)-20], secret.ReasonStoreUnavailable, "something other", 0, 1},
		"date odd":          {200, "", strings.Replace(goodSecret, "true", `true,"exp":"`+canary+`"`, 1), secret.ReasonStoreUnavailable, "something other", 0, 1},
		"huge":              {200, "", goodSecret + strings.Repeat(" ", maxBody), secret.ReasonStoreUnavailable, "something other", 0, 1},
		"not UTF-8":         {200, "", strings.Replace(goodSecret, canary, canary+"\xff", 1), secret.ReasonStoreUnavailable, "something other", 0, 1},
		"truncated":         {200, "Content-Length: 9999", goodSecret, secret.ReasonStoreUnavailable, "closed the connection", 0, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			f.vault = func(w http.ResponseWriter, _ *http.Request) {
				if k, v, ok := strings.Cut(tc.header, ": "); ok {
					w.Header().Set(k, v)
				}
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body)
			}
			s := f.open(f.Config(), f.integration())
			e := f.Fails(t.Context(), s, vaultURL+"::db", tc.want)
			if !strings.Contains(e.Message, tc.says) {
				t.Errorf("message %q does not say %q", e.Message, tc.says)
			}
			if e.RetryAfter != tc.retry {
				t.Errorf("retry after %v, want %v", e.RetryAfter, tc.retry)
			}
			if _, reads := f.counts(); reads != tc.reads {
				t.Errorf("%d reads, want %d", reads, tc.reads)
			}
			if strings.Contains(e.Message, tenantID) || strings.Contains(e.Message, clientID) {
				t.Errorf("the message names an identity: %s", e.Message)
			}
			if len(f.elsewhere) > 0 {
				t.Error("the redirect was followed")
			}
		})
	}
}

func TestDeniedIdentityIsLogged(t *testing.T) {
	f := newFake(t)
	f.vault = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("x-ms-request-id", "11111111-2222-3333-4444-555555555555")
		providertest.WriteJSON(w, 403, `{"error":{"code":"Forbidden","message":"Caller: appid=`+clientID+`;oid=`+tenantID+`;iss","innererror":{"code":"ForbiddenByRbac"}}}`)
	}
	s := f.open(f.Config(), f.integration())
	e := f.Fails(t.Context(), s, vaultURL+"::db", secret.ReasonStoreAccessDenied)
	want := "HTTP 403, code Forbidden, inner code ForbiddenByRbac, request id 11111111-2222-3333-4444-555555555555, appid " + clientID + ", oid " + tenantID
	if got := e.Cause.Error(); got != want {
		t.Errorf("cause\n%s, want\n%s", got, want)
	}
}

func TestUnreachableVault(t *testing.T) {
	untrusting := func(f *fake, host string) {
		other := newFake(f) // another CA
		f.Dial[host] = other.Dial[vaultHost]
	}
	raw := func(text string) func(*fake, string) {
		return func(f *fake, host string) { f.Dial[host] = rawTLS(f, text) }
	}
	for name, tc := range map[string]struct {
		breakIt func(f *fake, host string)
		want    secret.Reason
		says    string
	}{
		"refused":        {func(f *fake, host string) { f.Dial[host] = providertest.ClosedPort(f) }, secret.ReasonStoreUnavailable, "refuses the connection"},
		"unknown CA":     {untrusting, secret.ReasonStoreUnavailable, "set azure.ca_file"},
		"wrong name":     {func(f *fake, host string) { f.serve(host, f.foreign, f.serveStranger) }, secret.ReasonStoreUnavailable, "set azure.ca_file"},
		"not TLS":        {func(f *fake, host string) { f.Dial[host] = rawTCP(f, "220 "+canary+"\r\n") }, secret.ReasonStoreUnavailable, "TLS handshake"},
		"old TLS":        {func(f *fake, host string) { f.Dial[host] = oldTLS(f) }, secret.ReasonStoreUnavailable, "TLS handshake"},
		"hangs up":       {func(f *fake, host string) { f.Dial[host] = rawTCP(f, "") }, secret.ReasonStoreUnavailable, "closed the connection"},
		"not HTTP":       {raw(canary + "\r\n\r\n"), secret.ReasonStoreUnavailable, "something other"},
		"bad header":     {raw("HTTP/1.1 200 OK\r\n" + canary + "\r\n\r\n"), secret.ReasonStoreUnavailable, "something other"},
		"header too big": {raw("HTTP/1.1 200 OK\r\nX: " + strings.Repeat(canary, 4000) + "\r\n\r\n"), secret.ReasonStoreUnavailable, "something other"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			tc.breakIt(f, vaultHost)
			s := f.open(f.Config(), f.integration())
			e := f.Fails(t.Context(), s, vaultURL+"::db", tc.want)
			if !strings.Contains(e.Message, tc.says) || !strings.Contains(e.Message, vaultHost) {
				t.Errorf("message %q does not say %q of the vault", e.Message, tc.says)
			}
		})
		t.Run("login/"+name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			tc.breakIt(f, loginHost)
			s := f.open(f.Config(), f.integration())
			e := f.Fails(t.Context(), s, vaultURL+"::db", secret.ReasonStoreUnavailable)
			if !strings.Contains(e.Message, "login authority") {
				t.Errorf("message %q does not name the login authority", e.Message)
			}
		})
	}
}

func TestMissingVaultIsNotFound(t *testing.T) {
	err := fmt.Errorf("wrapped: %w", &net.OpError{Op: "dial", Err: &net.DNSError{Name: vaultHost + ".", IsNotFound: true}})
	if e := explainRead(t.Context(), vaultHost, err); e.Reason != secret.ReasonStoreNotFound {
		t.Errorf("the vault's own name: %v", e)
	}
	if e := explainRead(t.Context(), otherHost, err); e.Reason != secret.ReasonStoreUnavailable {
		t.Errorf("another name on the way: %v", e)
	}
	if worthRetrying(nil, err) {
		t.Error("a name that does not exist is looked up again")
	}
	if !worthRetrying(nil, &net.DNSError{Name: vaultHost, IsTemporary: true}) || worthRetrying(nil, &net.DNSError{Name: vaultHost, IsTimeout: true}) {
		t.Error("a DNS failure is retried unless it has taken its time")
	}
}

func TestSlowVault(t *testing.T) {
	f := newFake(t)
	arrived, release := make(chan struct{}, 8), make(chan struct{})
	f.vault = func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-release
	}
	defer close(release)
	cfg := f.Config()

	s := f.open(cfg, f.integration())
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	e := f.Fails(ctx, s, vaultURL+"::db", secret.ReasonStoreUnavailable)
	if !errors.Is(e, context.Canceled) {
		t.Errorf("the caller's context error is lost: %v", e)
	}

	cfg.TryTimeout = 50 * time.Millisecond
	cfg.MaxRetries = 5
	s = f.open(cfg, f.integration())
	f.fetchOnce(s)
	_, before := f.counts()
	e = f.Fails(t.Context(), s, vaultURL+"::db", secret.ReasonStoreUnavailable)
	if !strings.Contains(e.Message, "did not answer in time") {
		t.Errorf("message %q", e.Message)
	}
	if _, reads := f.counts(); reads-before > 1 {
		t.Errorf("a timeout was retried: %d reads", reads-before)
	}
}

// fetchOnce reads a secret and ignores the result.
func (f *fake) fetchOnce(s *store) { _, _ = s.Fetch(f.Context(), providertest.Ref(f, vaultURL+"::db")) }

func TestExpiredContext(t *testing.T) {
	f := newFake(t)
	s := f.open(f.Config(), f.integration())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if e := f.Fails(ctx, s, vaultURL+"::db", secret.ReasonStoreUnavailable); !errors.Is(e, context.Canceled) {
		t.Errorf("%v is not context.Canceled", e)
	}
}

func TestChallenges(t *testing.T) {
	for name, challenge := range map[string]string{
		"none":                  "",
		"not bearer":            `Basic realm="x"`,
		"authority cut short":   `Bearer authorization="x", resource="https://vault.azure.net"`, // the SDK panics
		"other resource":        `Bearer authorization="https://x/y", resource="https://storage.azure.net"`,
		"resource of the world": `Bearer authorization="https://x/y", resource="https://example.org"`,
		"claims not base64":     `Bearer error="insufficient_claims", claims="` + canary + ` !"`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			f.challenge = challenge
			s := f.open(f.Config(), f.integration())
			_, err := s.Fetch(t.Context(), providertest.Ref(t, vaultURL+"::db"))
			if err == nil {
				t.Fatal("no error")
			}
			want := secret.ReasonStoreUnavailable
			if challenge == "" || strings.HasPrefix(challenge, "Basic") {
				want = secret.AsError(err).Reason
			}
			f.CheckError(err, want)
			if issued, reads := f.counts(); issued+reads != 0 {
				t.Errorf("%d tokens, %d reads", issued, reads)
			}
		})
	}
}

func TestForeignTenant(t *testing.T) {
	f := newFake(t)
	f.challenge = strings.Replace(f.challenge, tenantID, "abababab-1111-2222-3333-444444444444", 1)
	s := f.open(f.Config(), f.integration())
	e := f.Fails(t.Context(), s, vaultURL+"::db", secret.ReasonStoreAuthenticationFailed)
	if !strings.Contains(e.Message, "azure.tenant_id") {
		t.Errorf("message %q", e.Message)
	}
	if len(f.forms) != 0 {
		t.Error("the credential was sent")
	}
}

func TestTenantSpelling(t *testing.T) {
	for _, tenant := range []string{strings.ToUpper(tenantID), "tenant.example.org"} {
		f := newFake(t)
		in := f.integration()
		settingsOf(in).TenantID = tenant
		f.Fetch(f.open(f.Config(), in), vaultURL+"::db")
	}
}

// rawTCP returns the address of a server that sends text to each client and then
// closes the connection.
func rawTCP(t testing.TB, text string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	providertest.Must(t, err)
	return sendRaw(t, l, text)
}

// rawTLS does the same after a TLS handshake.
func rawTLS(f *fake, text string) string {
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{f.cert}, MinVersion: tls.VersionTLS12})
	providertest.Must(f, err)
	return sendRaw(f, l, text)
}

func oldTLS(f *fake) string {
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{f.cert}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11,
	})
	providertest.Must(f, err)
	return sendRaw(f, l, "")
}

func sendRaw(t testing.TB, l net.Listener, text string) string {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			// Read the client's data before closing. Otherwise the system would reset
			// the connection.
			if text == "" || isTLS(c) {
				_, _ = c.Read(make([]byte, 4096))
			}
			_, _ = io.WriteString(c, text)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return l.Addr().String()
}

func isTLS(c net.Conn) bool {
	_, ok := c.(*tls.Conn)
	return ok
}
