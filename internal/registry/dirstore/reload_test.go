package dirstore

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/provider/azurekv"
)

func TestReloadChange(t *testing.T) {
	w := newWorld(t, map[string]string{"a.yaml": managed("a", "aaa"), "b.yaml": managed("b", "bbb")})
	a, b := w.get("a"), w.get("b")
	stateOfB := w.files.files[w.path("b.yaml")]

	w.write("a.yaml", managed("a", "changed"))
	w.poll()
	w.told(nil, []string{"a"})
	if next := w.get("a"); next.Revision == a.Revision || next.Settings.StoreNames()[0] != "https://changed.vault.azure.net" {
		t.Errorf("the change did not take effect: %+v", next)
	}
	if w.get("b") != b || w.files.files[w.path("b.yaml")] != stateOfB {
		t.Error("a file that has not changed was read again")
	}
	if a.Settings.StoreNames()[0] != "https://aaa.vault.azure.net" {
		t.Error("the old integration was changed")
	}

	w.write("c.yaml", managed("c", "ccc"))
	w.reload()
	w.told(nil, []string{"c"})
	w.serves("a", "b", "c")

	w.remove("a.yaml")
	w.reload()
	w.told([]string{"a"}, nil)
	w.serves("b", "c")

	w.write("b.yaml", managed("d", "ddd"))
	w.reload()
	w.told([]string{"b"}, []string{"d"})
	w.serves("c", "d")
	w.faulty()
}

func TestReloadUnchanged(t *testing.T) {
	w := newWorld(t, map[string]string{"a.yaml": managed("a", "aaa")})
	a := w.get("a")
	w.write("a.yaml", managed("a", "aaa")) // touched
	w.reload()
	w.told(nil, nil)
	if w.get("a") != a {
		t.Error("a file with the same content makes another integration")
	}
	if err := os.Rename(w.path("a.yaml"), w.path("z.yaml")); err != nil {
		t.Fatal(err)
	}
	w.reload()
	w.told(nil, nil)
	if w.get("a") != a {
		t.Error("a renamed file makes another integration")
	}
	w.faulty()
}

// Stamps do not reveal a write within the same tick of the file system's clock.
func TestReloadWithinOneTick(t *testing.T) {
	w := newWorld(t, map[string]string{"a.yaml": managed("a", "aaa")})
	stamp := w.clock.Add(-time.Second)
	replace := func(content string) {
		w.write("a.yaml", content)
		if err := os.Chtimes(w.path("a.yaml"), stamp, stamp); err != nil {
			t.Fatal(err)
		}
		w.poll()
	}
	replace(managed("a", "bbb"))
	replace(managed("a", "ccc"))
	if got := w.get("a").Settings.StoreNames()[0]; got != "https://ccc.vault.azure.net" {
		t.Errorf("the second change went unnoticed: %s", got)
	}
}

func TestReloadBroken(t *testing.T) {
	good := managed("a", "aaa")
	w := newWorld(t, map[string]string{"a.yaml": good, "b.yaml": managed("b", "bbb")})
	a := w.get("a")
	w.log.Take()
	// A half-written file, and other invalid content.
	for _, broken := range []string{"", good[:len(good)/2], good[:len(good)-3], "id: a\n", good + "x: 1\n", "id: [", "id: b\n"} {
		w.write("a.yaml", broken)
		w.reload()
		w.told(nil, nil)
		w.faulty("a.yaml serves a")
		w.serves("a", "b")
		if w.get("a") != a {
			t.Errorf("%q: the last good integration was replaced", broken)
		}
		w.reload()
		w.reload()
		if out := w.log.Take(); strings.Count(out, "level=ERROR") != 1 || !strings.Contains(out, "still_serving=a") {
			t.Errorf("%q: not logged exactly once: %s", broken, out)
		}
	}
	w.write("a.yaml", managed("a", "mended"))
	w.reload()
	w.told(nil, []string{"a"})
	w.faulty()
	if out := w.log.Take(); !strings.Contains(out, "is valid again") {
		t.Errorf("nothing was said of the end of the fault: %s", out)
	}

	w.write("a.yaml", "id: [")
	w.reload()
	w.remove("a.yaml")
	w.reload()
	w.told([]string{"a"}, nil)
	w.faulty()
}

func TestBrokenAtStart(t *testing.T) {
	w := newWorld(t, map[string]string{"a.yaml": "id: a\n", "b.yaml": managed("b", "bbb")})
	w.serves("b")
	w.faulty("a.yaml")
	w.write("a.yaml", managed("a", "aaa"))
	w.reload()
	w.serves("a", "b")
	w.told(nil, []string{"a"})
}

func TestUnreadableFile(t *testing.T) {
	w := newWorld(t, map[string]string{"a.yaml": managed("a", "aaa")})
	w.remove("a.yaml")
	if err := os.Symlink("nowhere", w.path("a.yaml")); err != nil {
		t.Fatal(err)
	}
	w.reload()
	w.serves("a")
	w.faulty("a.yaml serves a")
	w.remove("a.yaml")
	w.write("target", managed("a", "bbb"))
	if err := os.Symlink("target", w.path("a.yaml")); err != nil {
		t.Fatal(err)
	}
	w.reload()
	w.told(nil, []string{"a"})
	w.faulty()
}

func TestDirectoryGone(t *testing.T) {
	w := newWorld(t, map[string]string{"a.yaml": managed("a", "aaa"), "b.yaml": "id: b\n"})
	w.log.Take()
	moved := w.dir + ".moved"
	if err := os.Rename(w.dir, moved); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		w.poll()
		w.serves("a")
		w.told(nil, nil)
		w.faulty(filepath.Base(w.dir), "b.yaml")
	}
	if out := w.log.Take(); strings.Count(out, "level=ERROR") != 1 || !strings.Contains(out, "directory cannot be read") ||
		!strings.Contains(out, "still_serving=1") || strings.Contains(out, "file is invalid") {
		t.Errorf("not logged exactly once and truly: %s", out)
	}
	if err := os.Rename(moved, w.dir); err != nil {
		t.Fatal(err)
	}
	w.reload()
	w.serves("a")
	w.faulty("b.yaml")
	if out := w.log.Take(); strings.Count(out, "level=") != 1 || !strings.Contains(out, "directory is valid again") {
		t.Errorf("the end of the fault: %s", out)
	}
}

func TestDuplicateAtStart(t *testing.T) {
	w := newWorld(t, map[string]string{"a.yaml": managed("x", "aaa"), "b.yaml": managed("x", "bbb"), "c.yaml": managed("c", "ccc")})
	w.serves("c")
	w.faulty("a.yaml", "b.yaml")
	w.reload()
	w.serves("c")
	w.remove("a.yaml")
	w.reload()
	w.serves("c", "x")
	w.told(nil, []string{"x"})
	w.faulty()
}

// No other file can take over the id of a broken file.
func TestDuplicateOfBrokenAtStart(t *testing.T) {
	w := newWorld(t, map[string]string{"a.yaml": managed("x", "a!"), "b.yaml": managed("x", "bbb")})
	w.serves()
	w.faulty("a.yaml", "b.yaml")
}

func TestDuplicateLater(t *testing.T) {
	w := newWorld(t, map[string]string{"m.yaml": managed("x", "mmm")})
	x := w.get("x")
	w.write("a.yaml", managed("x", "aaa"))
	w.write("z.yaml", "id: x\n")
	w.reload()
	w.told(nil, nil)
	w.faulty("a.yaml", "z.yaml")
	if w.get("x") != x {
		t.Error("the file that came later took the id")
	}
	// The file that serves the id keeps it while it changes and while it is broken.
	w.write("m.yaml", managed("x", "nnn"))
	w.reload()
	w.told(nil, []string{"x"})
	w.write("m.yaml", "id: [")
	w.reload()
	w.told(nil, nil)
	w.faulty("a.yaml", "m.yaml serves x", "z.yaml")
	w.remove("z.yaml")
	w.remove("m.yaml")
	w.reload()
	w.faulty()
	if got := w.get("x").Settings.StoreNames()[0]; got != "https://aaa.vault.azure.net" {
		t.Errorf("x is served from %s", got)
	}
}

// A file keeps the id that it serves even if it is so broken that its id cannot be
// determined.
func TestDuplicateOfBrokenLater(t *testing.T) {
	w := newWorld(t, map[string]string{"m.yaml": managed("x", "mmm")})
	w.write("m.yaml", "id: [")
	w.write("a.yaml", managed("x", "aaa"))
	w.reload()
	w.told(nil, nil)
	w.faulty("a.yaml", "m.yaml serves x")
	w.write("m.yaml", managed("m", "mmm"))
	w.reload()
	w.told(nil, []string{"m", "x"})
	w.faulty()
}

func TestChangeToTakenID(t *testing.T) {
	w := newWorld(t, map[string]string{"a.yaml": managed("a", "aaa"), "b.yaml": managed("b", "bbb")})
	w.write("a.yaml", managed("b", "aaa"))
	w.reload()
	w.told(nil, nil)
	w.serves("a", "b")
	w.faulty("a.yaml serves a")
	// Another file may take over an id that is served only from an earlier state.
	w.write("c.yaml", managed("a", "ccc"))
	w.reload()
	w.told(nil, []string{"a"})
	w.faulty("a.yaml")
	// Two files that exchange their ids are both valid.
	w.write("b.yaml", managed("a", "bbb"))
	w.write("c.yaml", managed("b", "ccc"))
	w.remove("a.yaml")
	w.reload()
	w.told(nil, []string{"a", "b"})
	w.faulty()
	if got := w.get("a").Settings.StoreNames()[0]; got != "https://bbb.vault.azure.net" {
		t.Errorf("a is served from %s", got)
	}
}

func TestCredentialFile(t *testing.T) {
	w := &world{T: t, dir: t.TempDir()}
	credential := filepath.Join(t.TempDir(), "secret")
	w.write("a.yaml", withSecret("a", credential))
	w.write("b.yaml", withSecret("b", credential))
	w.log, w.clock = &asynctest.Buffer{}, time.Now().Add(time.Hour)
	put := func(content string) {
		if err := os.WriteFile(credential, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.open()
	w.serves()
	w.faulty("a.yaml", "b.yaml")

	put("hunter2")
	w.reload()
	w.told(nil, []string{"a", "b"})
	w.faulty()
	a, b := w.get("a"), w.get("b")
	if a.Revision == b.Revision {
		t.Error("two integrations have the same revision")
	}
	if a.Settings.(*azurekv.Settings).Credential.ClientSecretFile != credential {
		t.Errorf("the credential is %+v", a.Settings.(*azurekv.Settings).Credential)
	}
	w.reload()
	w.told(nil, nil)

	put("hunter3")
	w.reload()
	w.told(nil, []string{"a", "b"})
	if w.get("a").Revision == a.Revision {
		t.Error("a rotated credential has the old revision")
	}

	put("") // the first half of os.WriteFile
	w.reload()
	w.told(nil, nil)
	w.faulty("a.yaml serves a", "b.yaml serves b")
	put("hunter2")
	w.reload()
	if w.get("a").Revision != a.Revision {
		t.Error("the same files have another revision")
	}
	if out := w.log.Take(); strings.Contains(out, "hunter") {
		t.Errorf("a credential was logged: %s", out)
	}
}

func TestConfigMap(t *testing.T) {
	w := &world{T: t, dir: t.TempDir(), log: &asynctest.Buffer{}, clock: time.Now().Add(time.Hour)}
	// The kubelet writes NAME -> ..data/NAME, ..data -> ..TIMESTAMP.
	mount := func(stamp string, files map[string]string) {
		if err := os.Mkdir(w.path(stamp), 0o700); err != nil {
			t.Fatal(err)
		}
		for name, content := range files {
			w.write(filepath.Join(stamp, name), content)
		}
		if err := os.Symlink(stamp, w.path("..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(w.path("..data_tmp"), w.path("..data")); err != nil {
			t.Fatal(err)
		}
	}
	mount("..1", map[string]string{"a.yaml": managed("a", "aaa"), "b.yaml": withSecret("b", "password"), "password": "hunter2"})
	for _, name := range []string{"a.yaml", "b.yaml", "password"} {
		if err := os.Symlink("..data/"+name, w.path(name)); err != nil {
			t.Fatal(err)
		}
	}
	w.open()
	w.serves("a", "b")
	w.faulty()
	mount("..2", map[string]string{"a.yaml": managed("a", "aaa"), "b.yaml": withSecret("b", "password"), "password": "hunter3"})
	if err := os.RemoveAll(w.path("..1")); err != nil {
		t.Fatal(err)
	}
	w.reload()
	w.told(nil, []string{"b"})
	mount("..3", map[string]string{"a.yaml": managed("a", "new"), "b.yaml": withSecret("b", "password"), "password": "hunter3"})
	w.reload()
	w.told(nil, []string{"a"})
	w.faulty()
}

// TestRenewedToken: renewing a federated token, as Kubernetes does every hour, does not
// change the integration; a missing token is a fault.
func TestRenewedToken(t *testing.T) {
	w := newWorld(t, nil)
	token := filepath.Join(t.TempDir(), "token")
	put := func(content string) {
		t.Helper()
		if err := os.WriteFile(token, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("first")
	w.write("a.yaml", strings.Replace(withSecret("a", token), "type: client_secret, client_secret_file:", "type: workload_identity, token_file:", 1))
	w.open()
	w.serves("a")
	before := w.get("a")
	put("second")
	w.reload()
	w.told(nil, nil)
	if w.get("a") != before {
		t.Error("a renewed token made another integration")
	}
	if err := os.Remove(token); err != nil {
		t.Fatal(err)
	}
	w.reload()
	w.faulty("a.yaml serves a")
}
