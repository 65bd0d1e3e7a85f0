package dirstore

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	tenantID = "11111111-2222-3333-4444-555555555555"
	clientID = "66666666-7777-8888-9999-aaaaaaaaaaaa"
)

// managed returns the smallest document of an integration.
func managed(id, vault string) string {
	return fmt.Sprintf("id: %s\nkind: AZURE_KEY_VAULT\nazure:\n  credential: {type: managed_identity}\n  vaults: [https://%s.vault.azure.net]\n", id, vault)
}

// withSecret returns the document of an integration with a client secret.
func withSecret(id, secretFile string) string {
	return fmt.Sprintf("id: %s\nkind: AZURE_KEY_VAULT\nazure:\n  tenant_id: %s\n  client_id: %s\n  credential: {type: client_secret, client_secret_file: %s}\n  vaults: [https://abc.vault.azure.net]\n",
		id, tenantID, clientID, secretFile)
}

// world is a directory, its Store, and what the Store logged and reported.
type world struct {
	*testing.T
	dir   string
	files *Store
	log   *asynctest.Buffer
	// clock is an hour ahead, so that files are stable as soon as they are written.
	clock time.Time
	// removed and changed are the arguments of the last call of OnChange.
	removed, changed []string
}

func newWorld(t *testing.T, files map[string]string) *world {
	t.Helper()
	w := &world{T: t, dir: t.TempDir(), log: &asynctest.Buffer{}, clock: time.Now().Add(time.Hour)}
	for name, content := range files {
		w.write(name, content)
	}
	w.open()
	return w
}

func (w *world) open() {
	w.Helper()
	var err error
	w.files, err = Open(Config{
		Kinds:  kinds.All(),
		Dir:    w.dir,
		Logger: slog.New(slog.NewTextHandler(w.log, nil)),
		OnChange: func(removed, changed []*integration.Integration) {
			w.removed, w.changed = ids(removed), ids(changed)
		},
		Now: func() time.Time { return w.clock },
	})
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) write(name, content string) {
	w.Helper()
	if err := os.WriteFile(w.path(name), []byte(content), 0o600); err != nil {
		w.Fatal(err)
	}
}

func (w *world) remove(name string) {
	w.Helper()
	if err := os.Remove(w.path(name)); err != nil {
		w.Fatal(err)
	}
}

func (w *world) reload() {
	w.removed, w.changed = nil, nil
	w.files.Reload()
}

// poll looks for changes as a poll of Run does.
func (w *world) poll() {
	w.removed, w.changed = nil, nil
	w.files.update(w.files.poll)
}

func ids(list []*integration.Integration) []string {
	var s []string
	for _, in := range list {
		s = append(s, in.ID)
	}
	return s
}

// serves fails the test unless exactly these integrations are served.
func (w *world) serves(want ...string) {
	w.Helper()
	if diff := cmp.Diff(want, ids(w.files.List())); diff != "" {
		w.Errorf("List: %s", diff)
	}
	for _, id := range want {
		if in, err := w.files.Get(id); err != nil || in.ID != id {
			w.Errorf("Get(%q) = %v, %v", id, in, err)
		}
	}
}

// told fails the test unless the last reload reported these changes.
func (w *world) told(removed, changed []string) {
	w.Helper()
	if diff := cmp.Diff([][]string{removed, changed}, [][]string{w.removed, w.changed}); diff != "" {
		w.Errorf("OnChange: %s", diff)
	}
}

// faulty fails the test unless these files are at fault; want is "FILE", or "FILE serves
// ID" if the file's last valid content is still served.
func (w *world) faulty(want ...string) {
	w.Helper()
	var got []string
	for _, ff := range w.files.Faults() {
		s := filepath.Base(ff.File)
		if ff.Serving != "" {
			s += " serves " + ff.Serving
		}
		if len(ff.Faults) == 0 {
			w.Errorf("%s is at fault without a fault", ff.File)
		}
		got = append(got, s)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		w.Errorf("Faults: %s", diff)
	}
}

func (w *world) get(id string) *integration.Integration {
	w.Helper()
	in, err := w.files.Get(id)
	if err != nil {
		w.Fatalf("Get(%q): %v", id, err)
	}
	return in
}

func TestOpen(t *testing.T) {
	w := newWorld(t, map[string]string{
		"b.yaml":       managed("b", "bbb"),
		"a.yml":        managed("a", "aaa"),
		"broken.yaml":  "id: broken\nkind: [\n",
		".hidden.yaml": managed("hidden", "hhh"),
		"notes.txt":    managed("notes", "nnn"),
		"c.yaml.bak":   managed("backup", "ccc"),
	})
	if err := os.Mkdir(w.path("dir.yaml"), 0o700); err != nil {
		t.Fatal(err)
	}
	w.reload()
	w.serves("a", "b")
	w.faulty("broken.yaml")
	if _, err := w.files.Get("broken"); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("err = %v, want ErrNotFound", err)
	}
	if out := w.log.Take(); strings.Count(out, "level=ERROR") != 1 || !strings.Contains(out, "broken.yaml:3: not YAML") {
		t.Errorf("the fault was not logged once: %s", out)
	} else if !strings.Contains(out, "no grants") {
		t.Errorf("nothing was said of integrations without grants: %s", out)
	}
}

func TestOpenFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, dir := range map[string]string{"none": "", "absent": file + "x", "a file": file} {
		if f, err := Open(Config{Kinds: kinds.All(), Dir: dir}); err == nil {
			t.Errorf("%s: opened: %v", name, f)
		}
		if _, faults := Validate(kinds.All(), dir); len(faults) != 1 {
			t.Errorf("%s: Validate says %v", name, faults)
		}
	}
}

func TestValidate(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"a.yaml": managed("a", "aaa"),
		"b.yaml": managed("b", "b"),
		"c.yaml": managed("b", "bbb") + "grant: []\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list, faults := Validate(kinds.All(), dir)
	if diff := cmp.Diff([]string{"a"}, ids(list)); diff != "" {
		t.Error(diff)
	}
	var got []string
	for _, f := range faults {
		got = append(got, fmt.Sprintf("%s:%d %s", filepath.Base(f.File), f.Line, f.Path))
	}
	if diff := cmp.Diff([]string{"b.yaml:5 azure.vaults[0]", "b.yaml:1 id", "c.yaml:6 ", "c.yaml:1 id"}, got); diff != "" {
		t.Error(diff)
	}
}

// TestReadPolicies: questions about grants do not require the credentials.
func TestReadPolicies(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(withSecret("a", "nowhere.txt")), 0o600); err != nil {
		t.Fatal(err)
	}
	if in, faults := Validate(kinds.All(), dir); len(in) != 0 || len(faults) != 1 {
		t.Errorf("Validate: %v, %v", in, faults)
	}
	if in, faults := ReadPolicies(kinds.All(), dir); len(in) != 1 || len(faults) != 0 {
		t.Errorf("ReadPolicies: %v, %v", in, faults)
	}
}
