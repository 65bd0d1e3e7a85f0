package dirstore

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/asynctest"
)

// three makes a world with three integrations.
func three(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, map[string]string{"a.yaml": managed("a", "aaa"), "b.yaml": managed("b", "bbb"), "c.yaml": managed("c", "ccc")})
	w.poll()
	w.log.Take()
	return w
}

// later advances the clock of w.
func (w *world) later(d time.Duration) { w.clock = w.clock.Add(d) }

// vanishings are the ways in which a directory loses all its integrations at once.
var vanishings = map[string]func(w *world){
	"an emptied directory": func(w *world) {
		for _, name := range []string{"a.yaml", "b.yaml", "c.yaml"} {
			w.remove(name)
		}
	},
	"a missing directory": func(w *world) {
		if err := os.Rename(w.dir, w.dir+".moved"); err != nil {
			w.Fatal(err)
		}
		w.Cleanup(func() { _ = os.RemoveAll(w.dir + ".moved") })
	},
	"another directory, empty": func(w *world) { w.replaceDirectory() },
	"another directory, with something else": func(w *world) {
		w.replaceDirectory()
		w.write("README.md", "nothing here")
		w.write("z.yaml.disabled", managed("z", "zzz"))
	},
}

// replaceDirectory replaces the directory of w with an empty one, as when a volume is not
// mounted.
func (w *world) replaceDirectory() {
	w.Helper()
	if err := os.Rename(w.dir, w.dir+".moved"); err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = os.RemoveAll(w.dir + ".moved") })
	if err := os.Mkdir(w.dir, 0o700); err != nil {
		w.Fatal(err)
	}
}

// TestVanishedTogether: integrations whose files vanish together are served for holdTime,
// and the log and Faults report them.
func TestVanishedTogether(t *testing.T) {
	for name, vanish := range vanishings {
		t.Run(name, func(t *testing.T) {
			w := three(t)
			vanish(w)
			for range 3 {
				w.poll()
				w.told(nil, nil)
				w.serves("a", "b", "c")
				w.faulty(filepath.Base(w.dir))
				if st := w.files.Status(); st.Held != 3 || st.Problem != "" {
					t.Errorf("Status: %+v", st)
				}
				w.later(holdTime/3 - time.Second)
			}
			out := w.log.Take()
			if strings.Count(out, "level=ERROR") != 1 || !strings.Contains(out, "vanished together: a.yaml, b.yaml, c.yaml;") || !strings.Contains(out, "still_serving=3") {
				t.Errorf("not logged exactly once: %s", out)
			}
			w.later(3 * time.Second)
			w.poll()
			w.told([]string{"a", "b", "c"}, nil)
			w.serves()
			if held := w.files.Status().Held; held != 0 {
				t.Errorf("afterwards %d are held", held)
			}
		})
	}
}

// TestVanishedAreConfirmed: a reload, as SIGHUP causes, confirms the removal.
func TestVanishedAreConfirmed(t *testing.T) {
	for name, vanish := range vanishings {
		t.Run(name, func(t *testing.T) {
			w := three(t)
			vanish(w)
			w.poll()
			w.serves("a", "b", "c")
			w.files.lookAtAll(false) // after lost notifications
			w.serves("a", "b", "c")
			w.reload()
			w.serves()
		})
	}
}

// TestVanishedComeBack: files that return leave no trace of having vanished.
func TestVanishedComeBack(t *testing.T) {
	w := three(t)
	before := w.get("a")
	w.replaceDirectory()
	w.poll()
	w.faulty(filepath.Base(w.dir))
	if err := os.Remove(w.dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(w.dir+".moved", w.dir); err != nil {
		t.Fatal(err)
	}
	w.later(holdTime - time.Second)
	w.poll()
	w.told(nil, nil)
	w.faulty()
	w.later(time.Hour)
	w.poll()
	w.serves("a", "b", "c")
	if w.get("a") != before {
		t.Error("an integration was made again")
	}
	// A later accident has its own five minutes.
	vanishings["an emptied directory"](w)
	w.poll()
	w.serves("a", "b", "c")
}

// TestOneDeletedTakesEffect: the removal takes effect at once, also while other files are
// held, and also if it is the only file.
func TestOneDeletedTakesEffect(t *testing.T) {
	w := three(t)
	w.remove("b.yaml")
	w.poll()
	w.told([]string{"b"}, nil)
	w.faulty()
	w.write("b.yaml", managed("b", "bbb"))
	w.write("d.yaml", managed("d", "ddd"))
	w.poll()
	w.remove("a.yaml")
	w.remove("b.yaml")
	w.poll()
	w.serves("a", "b", "c", "d")
	w.remove("d.yaml")
	w.notice("d.yaml")
	w.told([]string{"d"}, nil)
	w.serves("a", "b", "c")

	alone := newWorld(t, map[string]string{"a.yaml": managed("a", "aaa")})
	alone.poll()
	alone.remove("a.yaml")
	alone.poll()
	alone.told([]string{"a"}, nil)
	alone.faulty()
}

// TestOnlyOneVanishes: if the only file disappears with its directory, this is not a
// deletion.
func TestOnlyOneVanishes(t *testing.T) {
	for _, name := range []string{"a missing directory", "another directory, empty"} {
		w := newWorld(t, map[string]string{"a.yaml": managed("a", "aaa")})
		w.poll()
		vanishings[name](w)
		w.poll()
		w.told(nil, nil)
		w.serves("a")
	}
}

// TestOneDeletedByRelease: a deployment replaces the directory with one that lacks one
// integration.
func TestOneDeletedByRelease(t *testing.T) {
	w := three(t)
	w.replaceDirectory()
	w.write("a.yaml", managed("a", "aaa"))
	w.write("c.yaml", managed("c", "changed"))
	w.poll()
	w.told([]string{"b"}, []string{"c"})
	w.faulty()
}

// TestRenamedTogether: renamed files have not vanished.
func TestRenamedTogether(t *testing.T) {
	w := three(t)
	before := w.get("a")
	for _, name := range []string{"a", "b", "c"} {
		if err := os.Rename(w.path(name+".yaml"), w.path("team-"+name+".yaml")); err != nil {
			t.Fatal(err)
		}
	}
	w.poll()
	w.told(nil, nil)
	w.faulty()
	if w.get("a") != before {
		t.Error("a renamed file makes another integration")
	}
}

// TestHeldIsTakenOver: another valid file that declares the integration ends its hold; an
// invalid one does not.
func TestHeldIsTakenOver(t *testing.T) {
	w := three(t)
	vanishings["an emptied directory"](w)
	w.poll()
	w.write("x.yaml", "id: a\n")
	w.write("y.yaml", managed("b", "changed"))
	w.notice("x.yaml", "y.yaml")
	w.told(nil, []string{"b"})
	w.serves("a", "b", "c")
	w.later(holdTime)
	w.poll()
	w.told([]string{"a", "c"}, nil)
	w.serves("b")
	w.faulty("x.yaml")
}

// TestHeldAcrossSuspend: time during which the machine is suspended counts.
func TestHeldAcrossSuspend(t *testing.T) {
	w := three(t)
	w.clock = time.Now() // with a monotonic reading
	vanishings["an emptied directory"](w)
	w.poll()
	w.serves("a", "b", "c")
	w.clock = w.clock.Round(0).Add(holdTime) // only the wall clock advanced
	w.poll()
	w.serves()
}

// TestHeldAreNamedInPart: if many files are held, the fault lists a few.
func TestHeldAreNamedInPart(t *testing.T) {
	files := make(map[string]string)
	for i := range 12 {
		files[fmt.Sprintf("%02d.yaml", i)] = managed(fmt.Sprintf("i%02d", i), "aaa")
	}
	w := newWorld(t, files)
	w.poll()
	w.replaceDirectory()
	w.poll()
	faults := w.files.Faults()
	if len(faults) != 1 || !strings.Contains(faults[0].Faults.Error(), "00.yaml, 01.yaml, 02.yaml, 03.yaml, 04.yaml and 7 more;") ||
		!strings.Contains(faults[0].Faults.Error(), w.clock.Add(holdTime).UTC().Format(time.RFC3339)) {
		t.Errorf("%+v", faults)
	}
}

// TestConfigMapLosesKeys: Kubernetes removes the links of deleted keys from the volume;
// the removal of one takes effect, and several are held.
func TestConfigMapLosesKeys(t *testing.T) {
	w := &world{T: t, dir: t.TempDir(), log: &asynctest.Buffer{}, clock: time.Now().Add(time.Hour)}
	mount := func(stamp string, ids ...string) {
		t.Helper()
		if err := os.Mkdir(w.path(stamp), 0o700); err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			w.write(filepath.Join(stamp, id+".yaml"), managed(id, stamp[2:]))
		}
		if err := os.Symlink(stamp, w.path("..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(w.path("..data_tmp"), w.path("..data")); err != nil {
			t.Fatal(err)
		}
	}
	mount("..aaa", "a", "b", "c", "d")
	for _, id := range []string{"a", "b", "c", "d"} {
		if err := os.Symlink("..data/"+id+".yaml", w.path(id+".yaml")); err != nil {
			t.Fatal(err)
		}
	}
	w.open()
	mount("..bbb", "a", "b", "c")
	w.remove("d.yaml")
	w.poll()
	w.told([]string{"d"}, []string{"a", "b", "c"})
	w.faulty()
	mount("..ccc", "a")
	w.remove("b.yaml")
	w.remove("c.yaml")
	w.poll()
	w.told(nil, []string{"a"})
	w.serves("a", "b", "c")
	w.reload()
	w.told([]string{"b", "c"}, nil)
	w.faulty()
}
