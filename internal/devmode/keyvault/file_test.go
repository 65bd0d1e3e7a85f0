package keyvault_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretbroker/secretbroker/internal/devmode/keyvault"
)

func TestEditWhileRunning(t *testing.T) {
	f := start(t, `{vaults: {my-vault: {secrets: {s: {value: one}}}}}`)
	client := f.vault(t, "my-vault")
	want := func(value string) {
		t.Helper()
		if got := *get(t, client, "s", "").Value; got != value {
			t.Fatalf("value = %q, want %q", got, value)
		}
	}
	want("one")
	version := get(t, client, "s", "").ID.Version()

	f.edit(t, `{vaults: {my-vault: {secrets: {s: {value: two}}}}}`) // same length
	want("two")
	if get(t, client, "s", "").ID.Version() == version {
		t.Error("another value has the same version")
	}

	// Written in place and not renamed, with the same length, and within one tick of the
	// file system's clock.
	tick := time.Now().Add(time.Hour)
	for _, value := range []string{"six", "ten"} {
		if err := os.WriteFile(f.secretsFile, []byte(`{vaults: {my-vault: {secrets: {s: {value: `+value+`}}}}}`), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(f.secretsFile, tick, tick); err != nil {
			t.Fatal(err)
		}
		want(value)
	}

	f.edit(t, `{vaults: {my-vault: {secrets: {s: {value: one}}}}}`)
	want("one")
	if got := get(t, client, "s", "").ID.Version(); got != version {
		t.Errorf("version = %q after the old value came back, want %q", got, version)
	}
}

func TestBrokenEditKeepsLastGood(t *testing.T) {
	f := start(t, `{vaults: {my-vault: {secrets: {s: {value: good}}}}}`)
	client := f.vault(t, "my-vault")
	for _, broken := range []string{
		`{vaults: {my-vault: {secrets: {s: {value: [tr0ub4dor]}}}}}`,
		``,
	} {
		f.edit(t, broken)
		before := strings.Count(f.logs.String(), "level=ERROR")
		for range 3 {
			if got := *get(t, client, "s", "").Value; got != "good" {
				t.Fatalf("value = %q, want the last valid one", got)
			}
		}
		if got := strings.Count(f.logs.String(), "level=ERROR") - before; got != 1 {
			t.Errorf("the problem was logged %d times, want once", got)
		}
	}
	if err := os.Remove(f.secretsFile); err != nil {
		t.Fatal(err)
	}
	if got := *get(t, client, "s", "").Value; got != "good" {
		t.Errorf("value = %q without the file, want the last valid one", got)
	}
	f.edit(t, `{vaults: {my-vault: {secrets: {s: {value: repaired}}}}}`)
	if got := *get(t, client, "s", "").Value; got != "repaired" {
		t.Errorf("value = %q, want the repaired one", got)
	}
	for _, value := range []string{"tr0ub4dor", "good\"", "repaired"} {
		if strings.Contains(f.logs.String(), value) {
			t.Errorf("the log quotes a value: %s", f.logs)
		}
	}
}

// TestReadsDuringEdits is a test for the race detector.
func TestReadsDuringEdits(t *testing.T) {
	f := start(t, `{vaults: {my-vault: {secrets: {s: {value: a0}}}}}`)
	client := f.vault(t, "my-vault")
	get(t, client, "s", "")
	const readers, each = 4, 25
	var wg sync.WaitGroup
	for range readers {
		wg.Go(func() {
			for range each {
				resp, err := client.GetSecret(t.Context(), "s", "", nil)
				if err != nil || !strings.HasPrefix(*resp.Value, "a") {
					t.Errorf("value %v, error %v", resp.Value, err)
				}
			}
		})
	}
	for i := range each {
		f.edit(t, fmt.Sprintf("{vaults: {my-vault: {secrets: {s: {value: a%d}}}}}", i))
	}
	wg.Wait()
	if got := f.Reads(); got != readers*each+1 {
		t.Errorf("%d reads, want %d", got, readers*each+1)
	}
}

func TestFaultsOfTheFile(t *testing.T) {
	const value = "tr0ub4dor"
	tests := []struct {
		name, file string
		want       []string
	}{
		{"empty", ``, []string{"the file is empty"}},
		{"comments only", "# nothing\n", []string{"the file is empty"}},
		{"syntax", "vaults:\n  a: [" + value, []string{"not valid YAML"}},
		{"unknown anchor", "vaults: {my-vault: {secrets: {s: {value: *" + value + "}}}}", []string{"not valid YAML"}},
		{"unknown key", "vaults:\n  my-vault:\n    secrets:\n      s: {value: x, " + value + ": y}", []string{"line 4: unknown setting"}},
		{"wrong type", "vaults:\n  my-vault:\n    secrets: {s: {value: x, enabled: " + value + "}}", []string{"line 3: expected a value of another type"}},
		{"key twice", "vaults: {my-vault: {secrets: {s: {value: " + value + ", value: x}}}}", []string{"line 1: the same key occurs twice"}},
		{"second document", "vaults: {}\n---\nvaults: {}", []string{"more than one document"}},
		{"missing value", "vaults: {my-vault: {secrets: {a: , b: {deleted: true}, c: {value: x, previous: [{enabled: true}]}}}}",
			[]string{"secrets.a: value is missing", "secrets.b: value is missing", "secrets.c.previous[0]: value is missing"}},
		{"names", "vaults: {My-Vault: {}, ab: {}, a--b: {}, abc-: {}, abcdefghijklmnopqrstuvwxy: {}, ok-1: {secrets: {a_b: {value: x}, A: {value: x}, a: {value: x}}}}",
			[]string{`"My-Vault" is not a valid vault name`, `"ab" is`, `"a--b" is`, `"abc-" is`, `"abcdefghijklmnopqrstuvwxy" is`, `"a_b" is not a valid secret name`, `"a" is listed twice`}},
		{"vault settings", "vaults: {aaa: {fault: slow}, bbb: {retry_after: 1s}, ccc: {delay: -1s}, ddd: {fault: throttled, retry_after: -1s}}",
			[]string{"vaults.aaa.fault: expected", "vaults.bbb.retry_after: expected", "vaults.ccc.delay: expected", "vaults.ddd.retry_after"}},
		{"too long", "vaults: {my-vault: {secrets: {s: {value: " + strings.Repeat(value, 3000) + "}}}}", []string{"secrets.s.value: it is 27000 bytes long"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "secrets.yaml")
			if err := os.WriteFile(file, []byte(tt.file), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := keyvault.New(keyvault.Config{SecretsFile: file, TenantID: tenantID, ClientID: clientID})
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range append(tt.want, file) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not contain %q", err, want)
				}
			}
			if strings.Contains(err.Error(), value) {
				t.Errorf("error %q quotes what may be a value", err)
			}
		})
	}
}

func TestNewRefuses(t *testing.T) {
	if _, err := keyvault.New(keyvault.Config{SecretsFile: "x", ClientID: clientID}); err == nil {
		t.Error("no error without a tenant")
	}
	if _, err := keyvault.New(keyvault.Config{SecretsFile: filepath.Join(t.TempDir(), "none"), TenantID: tenantID, ClientID: clientID}); err == nil {
		t.Error("no error without a secrets file")
	}
}

// TestDelay runs without a network, so that the clock can be fake.
func TestDelay(t *testing.T) {
	f := start(t, `{vaults: {my-vault: {delay: 1h, secrets: {s: {value: v}}}}}`)
	token := f.token(t)
	serve := func(ctx context.Context) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(ctx, "GET", "https://my-vault.vault.azure.net/secrets/s?api-version=7.4", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		f.ServeHTTP(w, r)
		return w
	}
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		if w := serve(t.Context()); w.Code != 200 || time.Since(begin) != time.Hour {
			t.Errorf("status %d after %v, want 200 after 1h", w.Code, time.Since(begin))
		}
		begin = time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if w := serve(ctx); w.Code != 503 || time.Since(begin) != time.Minute {
			t.Errorf("status %d after %v, want 503 when the client cancels after 1m", w.Code, time.Since(begin))
		}
	})
}
