//go:build unix

package dirstore

import (
	"syscall"
	"testing"
)

// Opening a pipe would block until its other end is opened.
func TestPipe(t *testing.T) {
	w := newWorld(t, map[string]string{"a.yaml": managed("a", "aaa"), "b.yaml": withSecret("b", "pipe")})
	for _, name := range []string{"pipe", "c.yaml"} {
		if err := syscall.Mkfifo(w.path(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.reload()
	w.serves("a")
	w.faulty("b.yaml", "c.yaml")
}
