package integration

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestLookKeepsNoCredential(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("hunter2"), 0o600); err != nil {
		t.Fatal(err)
	}
	look := NewLook()
	if c := look.Read(NamedFile{file, UseCredential}); c.Fault != "" {
		t.Fatal(c.Fault)
	}
	if len(look.credential) == 0 || bytes.Contains(look.credential, []byte("hunter2")) {
		t.Error("a credential was kept")
	}
}
