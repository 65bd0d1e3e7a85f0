package dirstore

import (
	"os"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/registry"
)

// record returns the record of an integration.
func (w *world) record(id string) registry.Record {
	w.Helper()
	r, err := w.files.Record(w.Context(), id)
	if err != nil {
		w.Fatalf("Record(%q): %v", id, err)
	}
	return r
}

// TestFaultyInForce: a record has what is in effect. It has the faults of the file as it is
// now, and the document and time of the version that is in effect.
func TestFaultyInForce(t *testing.T) {
	original := withSecret("a", "secret.txt")
	for name, tt := range map[string]struct {
		change func(w *world)
		fault  string
	}{
		"an invalid setting":       {func(w *world) { w.write("a.yaml", original+"colour: red\n") }, "colour"},
		"not YAML":                 {func(w *world) { w.write("a.yaml", "id: [") }, "not YAML"},
		"empty":                    {func(w *world) { w.write("a.yaml", "") }, "empty"},
		"the id of another file":   {func(w *world) { w.write("a.yaml", managed("b", "aaa")) }, "also claimed by b.yaml"},
		"a credential is missing":  {func(w *world) { w.remove("secret.txt") }, "client_secret_file"},
		"a dangling symbolic link": {func(w *world) { w.remove("a.yaml"); w.link("nowhere", "a.yaml") }, "a.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, map[string]string{"a.yaml": original, "b.yaml": managed("b", "bbb"), "secret.txt": "s"})
			before := w.record("a")
			if len(before.Faults) != 0 || before.UpdatedAt.IsZero() {
				t.Fatalf("before: %+v", before)
			}
			tt.change(&world{T: t, dir: w.dir})
			w.later(60 * 1e9)
			w.reload()
			w.serves("a", "b")
			r := w.record("a")
			if string(r.Document) != original || r.Integration != w.get("a") || r.ETag != before.ETag || !r.UpdatedAt.Equal(before.UpdatedAt) {
				t.Errorf("the record is not that of the version in effect: %+v", r)
			}
			if !strings.Contains(r.Faults.Error(), tt.fault) {
				t.Errorf("faults: %v, want %s", r.Faults, tt.fault)
			}
			if other := w.record("b"); len(other.Faults) != 0 {
				t.Errorf("faults of another file: %v", other.Faults)
			}
		})
	}
}

// TestHeldInForce: the record of an integration whose file has vanished with others has its
// last content and says until when it is in effect.
func TestHeldInForce(t *testing.T) {
	w := three(t)
	w.remove("a.yaml")
	w.remove("b.yaml")
	w.poll()
	for _, id := range []string{"a", "b"} {
		r := w.record(id)
		if string(r.Document) != managed(id, id+id+id) || !strings.Contains(r.Faults.Error(), "the file vanished together with others") ||
			!strings.Contains(r.Faults.Error(), w.clock.Add(holdTime).UTC().Format("15:04:05")) {
			t.Errorf("%+v", r)
		}
	}
	if r := w.record("c"); len(r.Faults) != 0 {
		t.Errorf("faults of another file: %v", r.Faults)
	}
	w.write("a.yaml", managed("a", "aaa"))
	w.poll()
	if r := w.record("a"); len(r.Faults) != 0 {
		t.Errorf("after it came back: %v", r.Faults)
	}
}

// TestNeverValid: an integration that was never valid has a record with its faults and
// without a document. If its id cannot be read, the name of the file is its id.
func TestNeverValid(t *testing.T) {
	w := newWorld(t, map[string]string{
		"setting.yaml":  managed("declared", "aaa") + "password: hunter2\n",
		"syntax.yaml":   "id: [",
		"Not An Id.yml": "id: [",
		"b.yaml":        managed("b", "bbb"),
		"c.yaml":        managed("twice", "ccc"),
		"d.yaml":        managed("twice", "ddd"),
		"x.yaml":        "", // does not hide the integration of another file
		"y.yaml":        managed("x", "xxx"),
	})
	w.serves("b", "x")
	records, err := w.files.Records(t.Context(), registry.Page{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range records {
		got = append(got, r.ID)
		if one := w.record(r.ID); one.ID != r.ID || one.Faults.Error() != r.Faults.Error() {
			t.Errorf("Record: %+v, Records: %+v", one, r)
		}
		if valid := r.ID == "b" || r.ID == "x"; valid != (len(r.Document) > 0) || valid != (r.Integration != nil) || valid != (len(r.Faults) == 0) || r.File == "" {
			t.Errorf("%+v", r)
		}
	}
	if want := "b declared syntax twice x"; strings.Join(got, " ") != want {
		t.Errorf("Records: %s, want %s", got, want)
	}
	if r := w.record("twice"); len(r.Faults) != 2 {
		t.Errorf("two files with one id: %v", r.Faults)
	}
	page, err := w.files.Records(t.Context(), registry.Page{After: "b", Limit: 2})
	if err != nil || len(page) != 2 || page[0].ID != "declared" || page[1].ID != "syntax" {
		t.Errorf("a page: %+v, %v", page, err)
	}
	w.write("syntax.yaml", managed("syntax", "sss"))
	w.reload()
	if r := w.record("syntax"); len(r.Faults) != 0 || r.Integration == nil {
		t.Errorf("after the repair: %+v", r)
	}
}

// link makes a symbolic link.
func (w *world) link(target, name string) {
	w.Helper()
	if err := os.Symlink(target, w.path(name)); err != nil {
		w.Fatal(err)
	}
}
