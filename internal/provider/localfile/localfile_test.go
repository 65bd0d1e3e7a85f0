package localfile

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

func TestConformance(t *testing.T) { providertest.Run(t, conformance()) }

func BenchmarkFetch(b *testing.B) { providertest.Bench(b, conformance()) }

func conformance() providertest.Harness {
	const noServer, noLogin, noState = "there is no server that could", "there is no login", "files have no such state"
	return providertest.Harness{
		Start:   startWorld,
		Biggest: MaxSize,
		Exceptions: map[string]string{
			"versions": "files have no older versions", "missing version": "files have no older versions",
			"disabled": noState, "expired": noState, "not yet valid": noState,
			"throttled": noServer, "silent": noServer, "unreachable": noServer, "failing": noServer, "redirecting": noServer,
			"garbling": noServer, "confusing": noServer, "cancelled": noServer, "recovers": noServer,
			"credential refused": noLogin, "credential revoked": noLogin,
		},
	}
}

func startWorld(t testing.TB) *providertest.World {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	return &providertest.World{
		Integration: newIntegration(dir),
		Opener:      Opener(provider.Config{}),
		Ref:         func(name string) string { return "file://" + dir + "::" + name },
		Foreign:     "file:///etc::passwd",
		Put: func(t testing.TB, name string, value []byte) string {
			write(t, at(name), string(value))
			info, err := os.Stat(at(name))
			must(t, err)
			return info.ModTime().UTC().Format(time.RFC3339Nano)
		},
		Become: func(t testing.TB, name string, state providertest.State) {
			must(t, os.Remove(at(name)))
			if state == providertest.Forbidden {
				outside := filepath.Join(t.TempDir(), "outside")
				write(t, outside, "outside")
				must(t, os.Symlink(outside, at(name)))
			}
		},
		Reads: func() int { return 0 },
	}
}

func newIntegration(dirs ...string) *integration.Integration {
	return &integration.Integration{
		ID: "it", Revision: "1", Kind: secret.KindLocalFile,
		Settings: &Settings{Directories: dirs, Environment: []string{"DB_PASSWORD", "UNSET", "KEY"}},
	}
}

func open(t testing.TB, lookupEnv func(string) (string, bool), in *integration.Integration) provider.Provider {
	t.Helper()
	p, err := opener(lookupEnv)(t.Context(), in)
	must(t, err)
	t.Cleanup(func() { must(t, p.Close()) })
	return p
}

// fetch returns the value, or the reason of the error.
func fetch(t testing.TB, p provider.Provider, reference string) string {
	t.Helper()
	ref, err := secret.ParseRef(reference)
	must(t, err)
	got, err := p.Fetch(t.Context(), ref)
	if err != nil {
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error quotes the file: %v", err)
		}
		return string(secret.AsError(err).Reason)
	}
	v, err := got.Select(ref.Key)
	if err != nil {
		return string(secret.AsError(err).Reason)
	}
	return v.Reveal()
}

func TestProperties(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "db.properties"), "# the database\nuser = ops\npassword: hunter2\\\n   and more\npäss=wörd \\u00e9\na.b=<&>\n")
	write(t, filepath.Join(dir, "twice.properties"), "a=hunter2\na=hunter2\n")
	write(t, filepath.Join(dir, "latin.properties"), "a=\xe9hunter2\n")
	write(t, filepath.Join(dir, "db.txt"), "user = ops\n")
	p := open(t, os.LookupEnv, newIntegration(dir))
	for ref, want := range map[string]string{
		"db.properties::user":     "ops",
		"db.properties::password": "hunter2and more",
		"db.properties::päss":     "wörd é",
		"db.properties::a.b":      "<&>",
		"db.properties::none":     string(secret.ReasonJSONKeyNotFound),
		"twice.properties::a":     string(secret.ReasonSecretNotJSON),
		"latin.properties::a":     string(secret.ReasonSecretNotJSON),
		"db.txt":                  "user = ops\n",
		"db.txt::user":            string(secret.ReasonSecretNotJSON),
	} {
		if got := fetch(t, p, "file://"+dir+"::"+ref); got != want {
			t.Errorf("%s: %q, want %q", ref, got, want)
		}
	}
}

// TestNothingLeavesTheDirectory: no link, name or special file leads to anything but
// a regular file in the directory.
func TestNothingLeavesTheDirectory(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	write(t, filepath.Join(outside, "key"), "hunter2")
	must(t, os.Mkdir(filepath.Join(dir, "sub"), 0o700))
	write(t, filepath.Join(dir, "sub", "inside"), "good")
	for link, to := range map[string]string{
		"absolute": filepath.Join(outside, "key"), "relative": "../" + filepath.Base(outside) + "/key",
		"directory": outside, "proc": "/proc/self", "loop": "loop",
		"in-place": "sub/inside", "sub/back": "../sub/inside", // as in Kubernetes' volumes
	} {
		must(t, os.Symlink(to, filepath.Join(dir, link)))
	}
	must(t, makePipe(filepath.Join(dir, "pipe")))
	write(t, filepath.Join(dir, "big"), strings.Repeat("x", MaxSize+1))
	p := open(t, os.LookupEnv, newIntegration(dir, filepath.Join(dir, "gone"), filepath.Join(dir, "proc")))
	denied := string(secret.ReasonStoreAccessDenied)
	missing := string(secret.ReasonSecretNotFound)
	for ref, want := range map[string]string{
		"::absolute": denied, "::relative": denied, "::directory/key": denied, "::proc/environ": denied, "::loop": denied,
		"::in-place": "good", "::sub/back": "good", "::sub/inside": "good",
		"::sub": missing, "::pipe": missing, "::sub/inside/x": missing, "::" + strings.Repeat("n", 300): missing,
		"::big":           string(secret.ReasonSecretTooLarge),
		"/gone::x":        string(secret.ReasonStoreNotFound),
		"/proc::environ":  denied,
		"/sub::inside":    string(secret.ReasonStoreNotAllowed), // not listed itself
		"/../etc::passwd": "",
	} {
		reference := "file://" + dir + ref
		if _, err := secret.ParseRef(reference); err != nil {
			if want != "" {
				t.Errorf("%s: %v", ref, err)
			}
			continue
		}
		if got := fetch(t, p, reference); got != want {
			t.Errorf("%s: %q, want %q", ref, got, want)
		}
	}
}

// TestLocalLarge: a file above the limit fails permanently. The message has the limit and
// the file's size.
func TestLocalLarge(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "most"), strings.Repeat("x", MaxSize))
	write(t, filepath.Join(dir, "large"), strings.Repeat("x", 300<<10))
	p := open(t, os.LookupEnv, newIntegration(dir))
	if got := fetch(t, p, "file://"+dir+"::most"); len(got) != MaxSize {
		t.Errorf("a file of the maximum size: %.60s", got)
	}
	ref, err := secret.ParseRef("file://" + dir + "::large")
	must(t, err)
	_, err = p.Fetch(t.Context(), ref)
	e := secret.AsError(err)
	if e.Reason != secret.ReasonSecretTooLarge || e.RetryAfter != 0 || !strings.Contains(e.Message, "307200 bytes") || !strings.Contains(e.Message, "262144 bytes") {
		t.Errorf("%v, retry after %v", e, e.RetryAfter)
	}
}

// TestNotUTF8: the value of a file that is not UTF-8 is its base64, and marked. A JSON key
// gets an error that says so, with the place.
func TestNotUTF8(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "latin"), "p\xe4ssw\xf6rd")
	write(t, filepath.Join(dir, "latin.json"), "{\n  \"password\": \"hunter2\xe4\"}")
	p := open(t, os.LookupEnv, newIntegration(dir))
	for name, want := range map[string]string{"latin": "cORzc3f2cmQ=", "latin.json": base64.StdEncoding.EncodeToString([]byte("{\n  \"password\": \"hunter2\xe4\"}"))} {
		if got := fetch(t, p, "file://"+dir+"::"+name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	ref, err := secret.ParseRef("file://" + dir + "::latin.json")
	must(t, err)
	got, err := p.Fetch(t.Context(), ref)
	must(t, err)
	if got.Form() != secret.NotUTF8 {
		t.Errorf("form %d", got.Form())
	}
	_, err = got.Select("password")
	if e := secret.AsError(err); e.Reason != secret.ReasonSecretNotJSON || !strings.Contains(e.Message, "not valid UTF-8") || !strings.Contains(e.Message, "line 2, byte 25") {
		t.Error(err)
	}
}

func TestEnvironment(t *testing.T) {
	key := "\xff\xfe\x00key"
	p := open(t, func(name string) (string, bool) {
		value, ok := map[string]string{"DB_PASSWORD": "hunter2", "KEY": key, "HOME": "/root"}[name]
		return value, ok
	}, newIntegration())
	for ref, want := range map[string]string{
		"env::DB_PASSWORD": "hunter2",
		"env::KEY":         base64.StdEncoding.EncodeToString([]byte(key)),
		"env::UNSET":       string(secret.ReasonSecretNotFound),
		"env::HOME":        string(secret.ReasonStoreNotAllowed),
	} {
		if got := fetch(t, p, ref); got != want {
			t.Errorf("%s: %q, want %q", ref, got, want)
		}
	}
}

// TestReplacedFile: a file that is replaced as Kubernetes does it is served by the
// next read, with another version.
func TestReplacedFile(t *testing.T) {
	dir := t.TempDir()
	for i, value := range []string{"old", "new"} {
		version := filepath.Join(dir, "..2026_"+value)
		must(t, os.Mkdir(version, 0o700))
		write(t, filepath.Join(version, "password"), value)
		at := time.Date(2026, 11, 21, 0, i, 0, 0, time.UTC)
		must(t, os.Chtimes(filepath.Join(version, "password"), at, at))
	}
	must(t, os.Symlink("..2026_old", filepath.Join(dir, "..data")))
	must(t, os.Symlink("..data/password", filepath.Join(dir, "password")))
	p := open(t, os.LookupEnv, newIntegration(dir))
	ref, err := secret.ParseRef("file://" + dir + "::password")
	must(t, err)
	first, err := p.Fetch(t.Context(), ref)
	must(t, err)
	must(t, os.Symlink("..2026_new", filepath.Join(dir, "..next")))
	must(t, os.Rename(filepath.Join(dir, "..next"), filepath.Join(dir, "..data")))
	second, err := p.Fetch(t.Context(), ref)
	must(t, err)
	if first.Version != "2026-11-21T00:00:00Z" || second.Version != "2026-11-21T00:01:00Z" {
		t.Errorf("versions %q and %q", first.Version, second.Version)
	}
}

func write(t testing.TB, path, content string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(content), 0o600))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
