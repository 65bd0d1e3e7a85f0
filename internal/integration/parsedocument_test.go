package integration

import (
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
		"/etc/broker/ca":                   true, // allowed, although it is not a file
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
