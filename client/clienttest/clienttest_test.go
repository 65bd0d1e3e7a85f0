package clienttest_test

import (
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/client/clienttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const db = "https://my-vault.vault.azure.net::db"

func resolve(t *testing.T, c *client.Client, integration string, configs map[string]string) (*client.ResolveResponse, error) {
	t.Helper()
	return c.Resolve(t.Context(), client.ResolveRequest{IntegrationID: integration, Configs: configs, AllowPartial: true})
}

// The broker answers with the values that the test has set, and with the reasons of a real one.
func TestBroker(t *testing.T) {
	b := clienttest.NewBroker(t)
	b.Set("prod", db, `{"user":"app","password":"hunter2"}`)
	expires := time.Now().Add(time.Hour).Truncate(time.Second)
	b.SetSecret("prod", "https://my-vault.vault.azure.net::binary", clienttest.Secret{Value: []byte("/wA="), Version: "v7", ExpireTime: expires})
	b.SetSecret("prod", "https://my-vault.vault.azure.net::gone", clienttest.Secret{Reason: client.ReasonSecretDisabled})
	res, err := resolve(t, b.Client(), "prod", map[string]string{
		"password": db + "::password", "whole": db, "binary": "https://my-vault.vault.azure.net::binary?decode=base64",
		"no key": db + "::nope", "not set": "https://my-vault.vault.azure.net::other", "disabled": "https://my-vault.vault.azure.net::gone",
		"other store": "https://other.vault.azure.net::db", "no reference": "hunter2",
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := res.Values["password"]; got.Reveal() != "hunter2" || got.Version != "1" || got.FetchTime.IsZero() {
		t.Errorf("password: %+v", got)
	}
	if got := res.Values["whole"].Reveal(); got != `{"user":"app","password":"hunter2"}` {
		t.Errorf("the whole secret is %s", got)
	}
	if got := res.Values["binary"]; string(got.Bytes()) != "\xff\x00" || got.Reveal() != "" || got.Version != "v7" || !got.SecretExpireTime.Equal(expires) {
		t.Errorf("binary: %q, %+v", got.Bytes(), got)
	}
	for config, want := range map[string]client.Reason{
		"no key": client.ReasonJSONKeyNotFound, "not set": client.ReasonSecretNotFound, "disabled": client.ReasonSecretDisabled,
		"other store": client.ReasonStoreNotAllowed, "no reference": client.ReasonInvalidReference,
	} {
		if got := res.Errors[config]; got.Reason != want {
			t.Errorf("%s: %s, want %s", config, got.Reason, want)
		}
	}
}

// A whole call fails as at a real broker.
func TestErrors(t *testing.T) {
	b := clienttest.NewBroker(t)
	c := b.Client()
	b.Set("prod", db, "x")
	_, err := c.Resolve(t.Context(), client.ResolveRequest{IntegrationID: "other", Configs: map[string]string{"p": db}})
	var e *client.Error
	if !errors.Is(err, client.ReasonAccessDenied) || !errors.As(err, &e) || e.Code != codes.PermissionDenied || e.RequestID == "" || len(e.Configs) != 1 {
		t.Errorf("another integration: %v", err)
	}
	for _, err := range c.ListIntegrations(t.Context(), client.ListIntegrationsRequest{}) {
		if !errors.As(err, &e) || e.Code != codes.Unimplemented {
			t.Errorf("a call that is not served: %v", err)
		}
	}
}

// A change takes effect at once, although the broker caches values.
func TestChanges(t *testing.T) {
	b := clienttest.NewBroker(t)
	c := b.Client()
	get := func() string {
		res, err := resolve(t, c, "prod", map[string]string{"p": db})
		if err != nil {
			return err.Error()
		}
		return res.Values["p"].Reveal() + string(res.Errors["p"].Reason)
	}
	b.Set("prod", db, "first")
	first := get()
	b.Set("prod", db, "second")
	second := get()
	b.SetSecret("prod", db, clienttest.Secret{Reason: client.ReasonStoreAccessDenied})
	third := get()
	b.Set("prod", db, "fourth")
	if got := []string{first, second, third, get()}; !slices.Equal(got, []string{"first", "second", "STORE_ACCESS_DENIED", "fourth"}) {
		t.Errorf("got %q", got)
	}
}

// A program without the certificate is refused.
func TestCertificate(t *testing.T) {
	b, other := clienttest.NewBroker(t), clienttest.NewBroker(t)
	cfg := b.Config()
	cfg.CertFile, cfg.KeyFile, cfg.MaxAttempts = other.Config().CertFile, other.Config().KeyFile, 1
	c, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := resolve(t, c, "prod", map[string]string{"p": db}); !errors.Is(err, client.ReasonCertificateRefused) {
		t.Errorf("got %v", err)
	}
}

// failingT records the failure of a test.
type failingT struct {
	testing.TB
	failed bool
}

func (f *failingT) Fatalf(string, ...any) { f.failed = true; panic(f) }

// The test fails if it sets what no request can return.
func TestMistakesOfTests(t *testing.T) {
	for name, set := range map[string]func(*clienttest.Broker){
		"no reference": func(b *clienttest.Broker) { b.Set("prod", "db", "x") },
		"a key":        func(b *clienttest.Broker) { b.Set("prod", db+"::password", "x") },
		"two kinds":    func(b *clienttest.Broker) { b.Set("prod", db, "x"); b.Set("prod", "env::DB", "x") },
	} {
		t.Run(name, func(t *testing.T) {
			f := &failingT{TB: t}
			b := clienttest.NewBroker(f)
			func() {
				defer func() { _ = recover() }()
				set(b)
			}()
			if !f.failed {
				t.Error("the test did not fail")
			}
		})
	}
}

// Package client needs no module that only a broker or a test needs.
func TestModulesOfTheClient(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", "github.com/secretbroker/secretbroker/client").Output()
	if err != nil {
		t.Fatal(err)
	}
	modules := strings.Fields(string(out))
	slices.Sort(modules)
	modules = slices.Compact(modules)
	want := []string{
		"github.com/cespare/xxhash/v2", "github.com/secretbroker/secretbroker", "golang.org/x/net", "golang.org/x/sys", "golang.org/x/text",
		"google.golang.org/genproto/googleapis/rpc", "google.golang.org/grpc", "google.golang.org/protobuf",
	}
	if !slices.Equal(modules, want) {
		t.Errorf("the client needs %q, want %q", modules, want)
	}
}
