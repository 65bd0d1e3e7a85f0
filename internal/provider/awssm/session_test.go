package awssm

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/secretbroker/secretbroker/internal/provider/task"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// What the role is assumed with: the integration's name, external ID, duration,
// and, where set, source identity and tags.
func TestAssumeRole(t *testing.T) {
	f := newFake(t)
	f.put(region, "db", canary)
	in := f.integration()
	in.AWS.Role.SourceIdentity = "secretbroker"
	in.AWS.Role.Tags = map[string]string{"team": "orders", "env": "prod"}
	in.AWS.Role.Duration = 30 * time.Minute
	f.fetch(f.open(f.config(), in), storeURL+"::db")
	if len(f.asked) != 1 {
		t.Fatalf("STS was asked %d times", len(f.asked))
	}
	for name, want := range map[string]string{
		"RoleArn": roleARN, "RoleSessionName": "secretbroker-it", "ExternalId": externalID, "DurationSeconds": "1800",
		"SourceIdentity": "secretbroker", "Tags.member.1.Key": "env", "Tags.member.1.Value": "prod", "Tags.member.2.Key": "team", "Tags.member.2.Value": "orders",
	} {
		if got := f.asked[0].form.Get(name); got != want {
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
		return answer(`<ErrorResponse><Error><Code>`+code+`</Code><Message>`+canary+`</Message></Error></ErrorResponse>`, status)
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
		{"wrong key", func(f *fake) { delete(f.keys, baseKey) }, secret.ReasonStoreAuthenticationFailed, "renew aws.credential"},
		{"wrong signature", func(f *fake) {
			f.keys[baseKey] = owner{keys: aws.Credentials{AccessKeyID: baseKey, SecretAccessKey: "x"}}
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
		{"down", func(f *fake) { f.server[stsHost].Close() }, secret.ReasonStoreUnavailable, "STS, which is asked for the role aws.role.arn, refuses the connection"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			in := f.integration()
			if tt.name == "wrong external ID" {
				in.AWS.Role.ExternalID = "of-another"
			}
			tt.setup(f)
			e := f.fails(f.open(f.config(), in), t.Context(), storeURL+"::db", tt.want)
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
	cfg := f.config()
	cfg.Now = func() time.Time { return now }
	s := f.open(cfg, f.integration())
	f.fetch(s, storeURL+"::db")
	f.revoke()
	f.fetch(s, storeURL+"::db")
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
		f.fails(s, t.Context(), storeURL+"::db", secret.ReasonStoreAuthenticationFailed)
	}
	if n := f.count("AssumeRole"); n != 2 {
		t.Errorf("%d sessions, while AWS refuses them all", n)
	}
	now = now.Add(renewPause)
	f.fails(s, t.Context(), storeURL+"::db", secret.ReasonStoreAuthenticationFailed)
	if n := f.count("AssumeRole"); n != 3 {
		t.Errorf("%d sessions after a pause", n)
	}
}

// source makes sessions whose keys come from f.
func source(f keySource) *sessions {
	return &sessions{source: f, timeout: 10 * time.Second, now: time.Now, log: slog.New(slog.DiscardHandler), tasks: task.NewGroup()}
}

func TestRefreshAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		var broken atomic.Bool
		s := source(func(ctx context.Context) (aws.Credentials, error) {
			asked.Add(1)
			select {
			case <-time.After(3 * time.Second):
			case <-ctx.Done():
				return aws.Credentials{}, ctx.Err()
			}
			if broken.Load() {
				return aws.Credentials{}, errors.New("nothing")
			}
			return aws.Credentials{AccessKeyID: "A", SecretAccessKey: "B", CanExpire: true, Expires: time.Now().Add(time.Hour)}, nil
		})
		defer func() { must(t, s.tasks.Stop(time.Minute)) }()
		get := func(want int32) {
			t.Helper()
			began := time.Now()
			_, err := s.get(t.Context())
			must(t, err)
			if waited := time.Since(began); asked.Load() != 1 && waited != 0 {
				t.Errorf("a read with good keys waited for %s", waited)
			}
			synctest.Wait()
			if got := asked.Load(); got != want {
				t.Errorf("asked %d times, want %d", got, want)
			}
		}
		get(1)
		time.Sleep(50 * time.Minute)
		get(1)
		broken.Store(true)
		time.Sleep(6 * time.Minute)
		get(2) // in the background
		time.Sleep(10 * time.Second)
		get(2) // and not at once again
		time.Sleep(refreshPause)
		get(3)
		time.Sleep(refreshPause)
		broken.Store(false)
		get(4)
		time.Sleep(10 * time.Minute)
		get(4)
	})
}

// One acquisition for all who wait; who gives up takes nobody along.
func TestSharedAcquisition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		s := source(func(context.Context) (aws.Credentials, error) {
			asked.Add(1)
			time.Sleep(2 * time.Second)
			return aws.Credentials{AccessKeyID: "A", SecretAccessKey: "B"}, nil
		})
		impatient, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := s.get(impatient); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
		})
		for range 20 {
			wg.Go(func() {
				if a, err := s.get(t.Context()); err != nil || !a.keys.HasKeys() {
					t.Errorf("got %v", err)
				}
			})
		}
		wg.Wait()
		if n := asked.Load(); n != 1 {
			t.Errorf("asked %d times", n)
		}
		must(t, s.tasks.Stop(time.Minute))
		s.good = nil
		if _, err := s.get(t.Context()); !errors.Is(err, errClosed) {
			t.Errorf("after the end: %v", err)
		}
	})
}

// A source that hangs is given up, and so is one that panics.
func TestHangingSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := source(func(ctx context.Context) (aws.Credentials, error) { <-ctx.Done(); return aws.Credentials{}, ctx.Err() })
		_, err := s.get(t.Context())
		if secret.AsError(err).Reason != secret.ReasonStoreUnavailable {
			t.Errorf("got %v", err)
		}
		s.source = func(context.Context) (aws.Credentials, error) { panic(canary) }
		_, err = s.get(t.Context())
		if err == nil || strings.Contains(err.Error(), canary) {
			t.Errorf("got %v", err)
		}
		must(t, s.tasks.Stop(time.Minute))
	})
}

func TestClosing(t *testing.T) {
	f := newFake(t)
	in := f.integration()
	in.AWS.Credential = registry.AWSCredential{Type: registry.AWSStatic, AccessKeyIDFile: writeFile(t, "id", "A"), SecretAccessKeyFile: writeFile(t, "k", "B")}
	p, err := Opener(f.config())(t.Context(), in)
	must(t, err)
	must(t, p.Close())
	_, err = p.Fetch(t.Context(), ref(t, storeURL+"::db"))
	f.checkError(err, secret.ReasonStoreUnavailable)
}
