package dirstore

import (
	"fmt"
	"testing"
)

// TestManyFiles: with files for several goroutines, the faults of a few files are
// reported, and the other files are served.
func TestManyFiles(t *testing.T) {
	files := map[string]string{"broken.yaml": "id: [", "twice.yaml": managed("i0007", "twice")}
	var want []string
	for i := range 3*filesPerWorker + 1 {
		id := fmt.Sprintf("i%04d", i)
		files[id+".yaml"] = withSecret(id, "shared.secret")
		if i != 7 {
			want = append(want, id)
		}
	}
	files["shared.secret"] = "s3cr3t"
	w := newWorld(t, files)
	w.serves(want...)
	w.faulty("broken.yaml", "i0007.yaml", "twice.yaml")
	before := w.get("i0100").Revision
	w.write("shared.secret", "rotated")
	w.reload()
	w.told(nil, want)
	if w.get("i0100").Revision == before {
		t.Error("a changed credential changes no revision")
	}
}
