package awssm

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/secretbroker/secretbroker/internal/devmode/secretsmanager"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/credential"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/provider/task"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// AssumeRole contains the integration's name, external ID and duration, and, if set,
// source identity and tags.
func TestAssumeRole(t *testing.T) {
	f := newFake(t)
	f.put(region, "db", canary)
	in := f.integration()
	settingsOf(in).Role.SourceIdentity = "secretbroker"
	settingsOf(in).Role.Tags = map[string]string{"team": "orders", "env": "prod"}
	settingsOf(in).Role.Duration = 30 * time.Minute
	f.Fetch(f.open(f.Config(), in), storeURL+"::db")
	asked := f.asked("AssumeRole")
	if len(asked) != 1 {
		t.Fatalf("STS was asked %d times", len(asked))
	}
	for name, want := range map[string]string{
		"RoleArn": roleARN, "RoleSessionName": "secretbroker-it", "ExternalId": externalID, "DurationSeconds": "1800",
		"SourceIdentity": "secretbroker", "Tags.member.1.Key": "env", "Tags.member.1.Value": "prod", "Tags.member.2.Key": "team", "Tags.member.2.Value": "orders",
	} {
		if got := asked[0].form.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

func TestSessionName(t *testing.T) {
	for id, want := range map[string]string{
		"x":                     "secretbroker-x",
		strings.Repeat("i", 51): "secretbroker-" + strings.Repeat("i", 51),
		strings.Repeat("i", 52): strings.Repeat("i", 52),
		strings.Repeat("i", 64): strings.Repeat("i", 64),
	} {
		if got := sessionName(id); got != want {
			t.Errorf("sessionName(%s) = %s, want %s", id, got, want)
		}
	}
}

func TestSessionFails(t *testing.T) {
	const asking = "AssumeRole"
	answer := func(body string, status int) func(*fake) {
		return func(f *fake) {
			f.answer = func(w http.ResponseWriter, _ *http.Request, operation string, _ []byte) bool {
				if operation == asking {
					w.Header().Set("Content-Type", "text/xml")
					w.WriteHeader(status)
					_, _ = w.Write([]byte(body))
				}
				return operation == asking
			}
		}
	}
	refusal := func(code string, status int) func(*fake) {
		return func(f *fake) {
			f.answer = func(w http.ResponseWriter, _ *http.Request, operation string, _ []byte) bool {
				if operation == asking {
					writeSTSFault(w, status, code)
				}
				return operation == asking
			}
		}
	}
	session := func(arn, expires string) func(*fake) {
		return answer(`<AssumeRoleResponse><AssumeRoleResult><AssumedRoleUser><Arn>`+arn+`</Arn></AssumedRoleUser><Credentials><AccessKeyId>ASIA</AccessKeyId>`+
			`<SecretAccessKey>session-secret</SecretAccessKey><SessionToken>session-token</SessionToken><Expiration>`+expires+`</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>`, 200)
	}
	const ours = "arn:aws:sts::" + account + ":assumed-role/reader/secretbroker-it"
	for _, tt := range []struct {
		name  string
		setup func(*fake)
		want  secret.Reason
		says  string
	}{
		{"wrong external ID", func(f *fake) {}, secret.ReasonStoreAuthenticationFailed, "aws.role.external_id"},
		{"wrong key", func(f *fake) { f.change(func(s *secretsmanager.State) { s.Identity.AccessKeyID = "AKIAOTHER" }) }, secret.ReasonStoreAuthenticationFailed, "renew aws.credential"},
		{"wrong signature", func(f *fake) {
			f.change(func(s *secretsmanager.State) { s.Identity.SecretAccessKey = "x" })
		}, secret.ReasonStoreAuthenticationFailed, "clock"},
		{"duration", refusal("ValidationError", 400), secret.ReasonStoreAuthenticationFailed, "aws.role.duration"},
		{"region", refusal("RegionDisabledException", 403), secret.ReasonStoreAuthenticationFailed, "aws.sts_region"},
		{"throttled", refusal("Throttling", 400), secret.ReasonStoreThrottled, "STS"},
		{"failing", refusal("InternalFailure", 500), secret.ReasonStoreUnavailable, "HTTP 500"},
		{"redirect", answer("", 302), secret.ReasonStoreUnavailable, "HTTP 302"},
		{"garbled", answer("<html>"+canary, 200), secret.ReasonStoreUnavailable, "HTTP 200"},
		{"empty", answer("<AssumeRoleResponse><AssumeRoleResult></AssumeRoleResult></AssumeRoleResponse>", 200), secret.ReasonStoreUnavailable, "no complete keys"},
		{"another role", session(strings.Replace(ours, "reader", "admin", 1), "2999-01-01T00:00:00Z"), secret.ReasonStoreUnavailable, "another role"},
		{"another account", session(strings.Replace(ours, account, otherOne, 1), "2999-01-01T00:00:00Z"), secret.ReasonStoreUnavailable, "another role"},
		{"over already", session(ours, "2001-01-01T00:00:00Z"), secret.ReasonStoreAuthenticationFailed, "clock"},
		{"down", func(f *fake) { f.Dial[stsHost] = providertest.ClosedPort(f) }, secret.ReasonStoreUnavailable, "cannot obtain the role aws.role.arn: STS refuses the connection"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			in := f.integration()
			if tt.name == "wrong external ID" {
				settingsOf(in).Role.ExternalID = "of-another"
			}
			tt.setup(f)
			e := f.Fails(t.Context(), f.open(f.Config(), in), storeURL+"::db", tt.want)
			if !strings.Contains(e.Message, tt.says) {
				t.Errorf("%q does not say %q", e.Message, tt.says)
			}
			if f.count("GetSecretValue") != 0 {
				t.Error("a secret was asked for without a session")
			}
		})
	}
}

// Keys that AWS refuses are replaced once, and not with every read.
func TestRefusedKeys(t *testing.T) {
	f := newFake(t)
	f.put(region, "db", canary)
	now := time.Now()
	cfg := f.Config()
	cfg.Now = func() time.Time { return now }
	s := f.open(cfg, f.integration())
	f.Fetch(s, storeURL+"::db")
	f.server.Revoke()
	f.Fetch(s, storeURL+"::db")
	if n := f.count("AssumeRole"); n != 2 {
		t.Errorf("%d sessions", n)
	}
	f.answer = func(w http.ResponseWriter, _ *http.Request, operation string, _ []byte) bool {
		if operation == "GetSecretValue" {
			writeFault(w, 400, "UnrecognizedClientException", canary)
		}
		return operation == "GetSecretValue"
	}
	for range 10 {
		f.Fails(t.Context(), s, storeURL+"::db", secret.ReasonStoreAuthenticationFailed)
	}
	if n := f.count("AssumeRole"); n != 2 {
		t.Errorf("%d sessions, while AWS refuses them all", n)
	}
	now = now.Add(credential.RefusalPause)
	f.Fails(t.Context(), s, storeURL+"::db", secret.ReasonStoreAuthenticationFailed)
	if n := f.count("AssumeRole"); n != 3 {
		t.Errorf("%d sessions after a pause", n)
	}
}

// source returns a Source whose keys come from f.
func source(t *testing.T, f keySource) *credential.Source[aws.Credentials] {
	t.Helper()
	tasks := task.NewGroup()
	s := newSessions(provider.Config{}.For(&integration.Integration{}), slog.New(slog.DiscardHandler), identity{}, f, tasks)
	t.Cleanup(func() {
		s.Close()
		providertest.Must(t, tasks.Stop(time.Minute))
	})
	return s
}

// A timer replaces keys before their end, and no caller waits for that.
func TestRefreshAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		s := source(t, func(context.Context) (aws.Credentials, error) {
			asked.Add(1)
			time.Sleep(3 * time.Second)
			return aws.Credentials{AccessKeyID: "A", SecretAccessKey: "B", CanExpire: true, Expires: time.Now().Add(time.Hour)}, nil
		})
		_, err := s.Get(t.Context())
		providertest.Must(t, err)
		time.Sleep(54 * time.Minute)
		if n := asked.Load(); n != 1 {
			t.Errorf("asked %d times", n)
		}
		time.Sleep(5 * time.Minute)
		began := time.Now()
		_, err = s.Get(t.Context())
		providertest.Must(t, err)
		if n := asked.Load(); n != 2 || time.Since(began) != 0 {
			t.Errorf("asked %d times, waited for %v", n, time.Since(began))
		}
	})
}

// Keys without an end are not replaced.
func TestStaticKeysAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		s := source(t, func(context.Context) (aws.Credentials, error) {
			asked.Add(1)
			return aws.Credentials{AccessKeyID: "A", SecretAccessKey: "B"}, nil
		})
		for range 10 {
			_, err := s.Get(t.Context())
			providertest.Must(t, err)
			time.Sleep(24 * time.Hour)
		}
		if n := asked.Load(); n != 1 {
			t.Errorf("asked %d times", n)
		}
	})
}

// An acquisition that hangs ends with its timeout, and one that panics is an error.
func TestHangingSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := source(t, func(ctx context.Context) (aws.Credentials, error) { <-ctx.Done(); return aws.Credentials{}, ctx.Err() })
		_, err := s.Get(t.Context())
		if secret.AsError(err).Reason != secret.ReasonStoreUnavailable {
			t.Errorf("got %v", err)
		}
		_, err = source(t, func(context.Context) (aws.Credentials, error) { panic(canary) }).Get(t.Context())
		if err == nil || strings.Contains(err.Error(), canary) {
			t.Errorf("got %v", err)
		}
	})
}

// 200 reads with a key that STS refuses cause one request to STS.
func TestRefusedRoleIsLeftAlone(t *testing.T) {
	f := newFake(t)
	f.put(region, "db", canary)
	now := time.Now()
	cfg := f.Config()
	cfg.Now = func() time.Time { return now }
	f.change(func(s *secretsmanager.State) { s.Identity.AccessKeyID = "AKIAOTHER" })
	s := f.open(cfg, f.integration())
	for range 200 {
		f.Fails(t.Context(), s, storeURL+"::db", secret.ReasonStoreAuthenticationFailed)
	}
	if n := f.count("AssumeRole"); n != 1 {
		t.Errorf("%d requests to STS", n)
	}
	now = now.Add(credential.RefusalPause)
	f.Fails(t.Context(), s, storeURL+"::db", secret.ReasonStoreAuthenticationFailed)
	if n := f.count("AssumeRole"); n != 2 {
		t.Errorf("%d requests to STS after a pause", n)
	}
}

func TestClosing(t *testing.T) {
	f := newFake(t)
	in := f.integration()
	settingsOf(in).Credential = Credential{Type: Static, AccessKeyIDFile: providertest.WriteFile(t, "id", "A"), SecretAccessKeyFile: providertest.WriteFile(t, "k", "B")}
	p, err := Opener(f.Config())(t.Context(), in)
	providertest.Must(t, err)
	providertest.Must(t, p.Close())
	_, err = p.Fetch(t.Context(), providertest.Ref(t, storeURL+"::db"))
	f.CheckError(err, secret.ReasonStoreUnavailable)
}
