package awssm

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/provider/egress"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// origins returns all origins that requests may be sent to.
func origins(s *store) []string {
	var all []string
	for _, c := range s.clients {
		all = append(all, c.Transport.(*egress.Transport).Origins()...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Requests are sent only to the endpoints and STS, and to metadata services only with
// the default credential.
func TestOrigins(t *testing.T) {
	for _, name := range []string{"AWS_CA_BUNDLE", "AWS_PROFILE", "AWS_EC2_METADATA_SERVICE_ENDPOINT"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:7777/creds")
	t.Setenv("AWS_CONFIG_FILE", providertest.WriteFile(t, "config", "[default]\nsso_region = eu-central-1\nsso_start_url = https://x.awsapps.com/start\nsso_account_id = 1\nsso_role_name = r\n"))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", providertest.WriteFile(t, "creds", ""))
	f := newFake(t)
	listed := []string{storeURL, "https://" + otherHost, "https://" + stsHost}
	if got := origins(f.open(f.Config(), f.integration())); !slices.Equal(got, listed) {
		t.Errorf("static: %q", got)
	}
	in := f.integration()
	settingsOf(in).Credential = Credential{Type: DefaultCredential}
	want := slices.Concat(listed, metadataOrigins, []string{"http://127.0.0.1:7777", "https://oidc.eu-central-1.amazonaws.com", "https://portal.sso.eu-central-1.amazonaws.com"})
	slices.Sort(want)
	if got := origins(f.open(f.Config(), in)); !slices.Equal(got, want) {
		t.Errorf("default: %q, want %q", got, want)
	}
}

// noProxy ignores the machine's own proxy settings.
func noProxy(*http.Request) (*url.URL, error) { return nil, nil }

// The client does not connect to a name that resolves to the machine itself. It
// connects to private networks only if the integration permits it.
func TestAddresses(t *testing.T) {
	for _, tt := range []struct {
		name    string
		private bool
		dial    map[string]string
		want    string // the address that the client may connect to
	}{
		{"private address without leave", false, map[string]string{}, ""},
		{"address of the dial table", false, map[string]string{stsHost: "127.0.0.1:9", smHost: "127.0.0.1:9"}, "127.0.0.1:9"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			cfg := f.Config()
			cfg.Proxy = noProxy
			var connected []string
			cfg.Connecting = func(address string) error {
				connected = append(connected, address)
				return errors.New("far enough")
			}
			cfg.Resolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
				return nil, errors.New("no DNS here")
			}}
			in := f.integration()
			settingsOf(in).PrivateEndpoint, settingsOf(in).Dial = tt.private, tt.dial
			f.Fails(t.Context(), f.open(cfg, in), storeURL+"::db", secret.ReasonStoreUnavailable)
			if tt.want == "" && len(connected) > 0 || tt.want != "" && (len(connected) == 0 || connected[0] != tt.want) {
				t.Errorf("connected to %q, want %q", connected, tt.want)
			}
		})
	}
}

// The error for a useless response states that there was one, and is not counted as
// an outage.
func TestUselessAnswers(t *testing.T) {
	f := newFake(t)
	s := f.open(f.Config(), f.integration())
	for name, write := range map[string]func(w http.ResponseWriter){
		"too large": func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"x":"`+strings.Repeat(canary, 50_000)+`"}`) },
		"not UTF-8": func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"SecretString":"`+"\xff\xfe"+canary+`"}`) },
		"half":      func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"SecretString":"`+canary) },
		"nothing":   func(http.ResponseWriter) {},
		"an array":  func(w http.ResponseWriter) { _, _ = io.WriteString(w, `["`+canary+`"]`) },
		"types": func(w http.ResponseWriter) {
			_, _ = io.WriteString(w, `{"ARN":7,"Name":{},"SecretString":["`+canary+`"]}`)
		},
		"no content": func(w http.ResponseWriter) { w.WriteHeader(http.StatusNoContent) },
	} {
		t.Run(name, func(t *testing.T) {
			f.TB = t
			f.answer = func(w http.ResponseWriter, _ *http.Request, operation string, _ []byte) bool {
				if operation == "GetSecretValue" {
					write(w)
				}
				return operation == "GetSecretValue"
			}
			if e := f.Fails(t.Context(), s, storeURL+"::db", secret.ReasonStoreUnavailable); !errors.Is(e, storeerror.ErrAnswered) {
				t.Errorf("an answer is taken for silence: %v", e)
			}
		})
	}
	f.TB = t
}

// A redirect is a response: no signed request reaches another host.
func TestRedirect(t *testing.T) {
	f := newFake(t)
	for _, status := range []int{301, 302, 303, 307, 308} {
		f.answer = func(w http.ResponseWriter, r *http.Request, operation string, _ []byte) bool {
			if operation == "GetSecretValue" && r.Host == smHost {
				http.Redirect(w, r, "https://"+otherHost+"/", status)
				return true
			}
			if operation == "GetSecretValue" {
				t.Errorf("a redirect with %d was followed", status)
			}
			return false
		}
		f.Fails(t.Context(), f.open(f.Config(), f.integration()), storeURL+"::db", secret.ReasonStoreUnavailable)
	}
}

// A broken connection or a server error is retried once. Throttling is not.
func TestRepeated(t *testing.T) {
	for name, tt := range map[string]struct {
		trouble func(w http.ResponseWriter)
		want    secret.Reason // after both attempts failed
		tries   int
	}{
		"broken off": {func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, secret.ReasonStoreUnavailable, 2},
		"failing":    {func(w http.ResponseWriter) { writeFault(w, 500, "InternalServiceError", "") }, secret.ReasonStoreUnavailable, 2},
		"throttling": {func(w http.ResponseWriter) { writeFault(w, 400, "ThrottlingException", "") }, secret.ReasonStoreThrottled, 1},
		"denying":    {func(w http.ResponseWriter) { writeFault(w, 400, "AccessDeniedException", "") }, secret.ReasonStoreAccessDenied, 1},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.put(region, "db", canary)
			var left atomic.Int32
			f.answer = func(w http.ResponseWriter, _ *http.Request, operation string, _ []byte) bool {
				if operation != "GetSecretValue" || left.Add(-1) < 0 {
					return false
				}
				tt.trouble(w)
				return true
			}
			s := f.open(f.Config(), f.integration())
			left.Store(10)
			f.Fails(t.Context(), s, storeURL+"::db", tt.want)
			if n := f.count("GetSecretValue"); n != tt.tries {
				t.Errorf("asked %d times", n)
			}
			if tt.tries > 1 {
				left.Store(1)
				f.Fetch(s, storeURL+"::db")
			}
		})
	}
}

// No read lasts longer than its context, whatever it waits for.
func TestDeadline(t *testing.T) {
	for _, hanging := range []string{"AssumeRole", "GetSecretValue"} {
		f := newFake(t)
		f.answer = func(_ http.ResponseWriter, r *http.Request, operation string, _ []byte) bool {
			if operation == hanging {
				<-r.Context().Done()
			}
			return operation == hanging
		}
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		e := f.Fails(ctx, f.open(f.Config(), f.integration()), storeURL+"::db", secret.ReasonStoreUnavailable)
		cancel()
		if !errors.Is(e, context.DeadlineExceeded) {
			t.Errorf("%s hangs: %v", hanging, e)
		}
	}
}
