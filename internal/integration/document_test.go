package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAllowedFile(t *testing.T) {
	allowed := []string{"/etc/broker/ca/", "/run/token", "/srv/x/../y"}
	for path, want := range map[string]bool{
		"/etc/broker/ca/a.pem":             true,
		"/etc/broker/ca/deep/a.pem":        true,
		"/etc/broker/ca/../ca/a.pem":       true,
		"/run/token":                       true,
		"/srv/y/a":                         true,
		"/etc/broker/ca":                   true, // which is no file
		"/etc/broker/ca/../registry.key":   false,
		"/etc/broker/cab":                  false,
		"/etc/broker/ca.pem":               false,
		"/run/token2":                      false,
		"/run/token/..":                    false,
		"/srv/x/a":                         false,
		"/":                                false,
		"":                                 false,
		"/etc/broker/ca/../../shadow":      false,
		"/proc/self/root/etc/broker/ca/a":  false,
		"/etc/broker/ca/./../../broker/ca": true,
	} {
		if got := allowedFile(path, allowed); got != want {
			t.Errorf("%q: %v", path, got)
		}
	}
	if allowedFile("/x", nil) || !allowedFile("/x/y", []string{"/"}) {
		t.Error("none allows something, or the root not everything")
	}
}

func FuzzAllowedFile(f *testing.F) {
	f.Add("/a/b", "/a")
	f.Add("/a/../b", "/a/")
	f.Add("//a//b/.", "/a/./b")
	f.Fuzz(func(t *testing.T, path, root string) {
		if !strings.HasPrefix(path, "/") || !strings.HasPrefix(root, "/") {
			return
		}
		rel, err := filepath.Rel(root, path)
		inside := err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
		if got := allowedFile(path, []string{root}); got != inside {
			t.Errorf("allowedFile(%q, %q) = %v; from one to the other it is %q", path, root, got, rel)
		}
	})
}

// A document that comes from elsewhere names no file of this machine, unless it
// may, and learns nothing of those that it may not name.
func TestDocumentsNameNoFiles(t *testing.T) {
	dir := t.TempDir()
	there, absent := filepath.Join(dir, "there"), filepath.Join(dir, "absent")
	put(t, there, "s3cret")
	faults := map[string]string{}
	for name, path := range map[string]string{"there": there, "absent": absent} {
		p := ParseDocument([]byte(withSecret("a", path)), DocumentConfig{})
		if p.Integration != nil || len(p.Faults) != 1 {
			t.Fatalf("%s: %+v", name, p)
		}
		faults[name] = p.Faults[0].Text
	}
	if faults["there"] != faults["absent"] || !strings.Contains(faults["there"], "registry.files") {
		t.Errorf("faults tell files that are there from those that are not: %q", faults)
	}
	p := ParseDocument([]byte(withSecret("a", there)), DocumentConfig{Files: []string{dir}})
	if p.Integration == nil || p.FilesSum == "" || p.Integration.Azure.Credential.ClientSecretFile != there {
		t.Errorf("a file that may be named: %+v", p)
	}
	if p := ParseDocument([]byte(withSecret("a", absent)), DocumentConfig{Files: []string{dir}}); p.Integration != nil {
		t.Error("a file that is not there was accepted")
	}
	if p := ParseDocument([]byte(withSecret("a", "there")), DocumentConfig{Files: []string{dir}}); p.Integration != nil {
		t.Error("a relative path was accepted")
	}
}

// A file comes before a credential that is kept, which the document then has no
// use for.
func TestFileBeforeCredential(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	put(t, file, "s3cret")
	c := DocumentConfig{
		Files:       []string{file},
		Credentials: map[string]Credential{"azure.credential.client_secret": func() ([]byte, error) { return []byte("x"), nil }},
	}
	if p := ParseDocument([]byte(withSecret("a", file)), c); p.Integration == nil || len(p.Used) != 0 || len(p.Integration.Credentials) != 0 {
		t.Errorf("%+v", p)
	}
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
