package seal_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/registry/seal"
)

const planted = "pl4nted-Secret"

func newKeys(t *testing.T) (path string, keys *seal.Keys) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "registry.key")
	if err := seal.Create(path); err != nil {
		t.Fatal(err)
	}
	keys, err := seal.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, keys
}

func mustSeal(t *testing.T, k *seal.Keys, data string) []byte {
	t.Helper()
	b, err := k.Seal(t.Context(), []byte(planted), data)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, []byte(planted)) {
		t.Fatal("the sealed bytes show the credential")
	}
	return b
}

func checkOpens(t *testing.T, k *seal.Keys, sealed []byte, data string) {
	t.Helper()
	if b, err := k.Open(t.Context(), sealed, data); err != nil || string(b) != planted {
		t.Errorf("Open for %q: %d bytes, %v", data, len(b), err)
	}
}

func TestSealBindsAssociatedData(t *testing.T) {
	_, k := newKeys(t)
	sealed := mustSeal(t, k, "a/x")
	checkOpens(t, k, sealed, "a/x")
	for _, data := range []string{"", "a", "a/y", "b/x", "a/x/"} {
		if _, err := k.Open(t.Context(), sealed, data); !errors.Is(err, seal.ErrCannotOpen) {
			t.Errorf("opened for %q: %v", data, err)
		}
	}
	for i := range sealed {
		broken := bytes.Clone(sealed)
		broken[i] ^= 1
		if _, err := k.Open(t.Context(), broken, "a/x"); !errors.Is(err, seal.ErrCannotOpen) {
			t.Errorf("opened with a changed byte %d: %v", i, err)
		}
		if _, err := k.Open(t.Context(), sealed[:i], "a/x"); err == nil {
			t.Errorf("opened %d bytes of it", i)
		}
	}
	if bytes.Equal(sealed, mustSeal(t, k, "a/x")) {
		t.Error("sealed twice it looks the same")
	}
	_, other := newKeys(t)
	if _, err := other.Open(t.Context(), sealed, "a/x"); !errors.Is(err, seal.ErrCannotOpen) {
		t.Errorf("another key opens: %v", err)
	}
}

func TestKeysAreExchanged(t *testing.T) {
	path, k := newKeys(t)
	old := mustSeal(t, k, "p")
	step := func(do func(string) error) {
		t.Helper()
		if err := do(path); err != nil {
			t.Fatal(err)
		}
		if err := k.Reload(); err != nil {
			t.Fatal(err)
		}
	}
	step(seal.Add)
	if !k.Current(old) || !k.Current(mustSeal(t, k, "p")) {
		t.Error("an added key seals before it is used")
	}
	step(seal.Use)
	now := mustSeal(t, k, "p")
	if k.Current(old) || !k.Current(now) {
		t.Errorf("after Use: Current(old) %v, Current(new) %v", k.Current(old), k.Current(now))
	}
	checkOpens(t, k, old, "p")
	checkOpens(t, k, now, "p")
	if keys, err := seal.List(path); err != nil || len(keys) != 2 || keys[0].Seals || !keys[1].Seals {
		t.Errorf("List: %+v, %v", keys, err)
	}
	step(seal.Drop)
	checkOpens(t, k, now, "p")
	if _, err := k.Open(t.Context(), old, "p"); !errors.Is(err, seal.ErrCannotOpen) {
		t.Errorf("a dropped key opens: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the changed file: %v, %v", info.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".key-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestKeyFileIsRefused(t *testing.T) {
	path, k := newKeys(t)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := seal.Create(path); err == nil {
		t.Error("a key file was overwritten")
	}
	for name, tt := range map[string]struct {
		data []byte
		mode os.FileMode
		want string
	}{
		"readable by all":   {good, 0o644, "chmod 600"},
		"readable by group": {good, 0o640, "chmod 600"},
		"writable by group": {good, 0o620, "chmod 600"},
		"empty":             {nil, 0o600, "not a key file"},
		"something else":    {[]byte(`{"password":"` + planted + `"}`), 0o600, "not a key file"},
		"cut":               {good[:len(good)-20], 0o600, "not a key file"},
		"huge":              {bytes.Repeat(good, 1000), 0o600, "larger than"},
	} {
		file := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(file, tt.data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, tt.mode); err != nil {
			t.Fatal(err)
		}
		_, err := seal.Open(file)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), planted) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := seal.Open(filepath.Join(t.TempDir(), "none")); err == nil || !strings.Contains(err.Error(), "secretbroker seal create-key") {
		t.Errorf("no file: %v", err)
	}
	sealed := mustSeal(t, k, "p")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if k.Reload() == nil {
		t.Error("an empty file was read")
	}
	checkOpens(t, k, sealed, "p")
}
