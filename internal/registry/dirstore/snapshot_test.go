package dirstore

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestSettleConcerned: deciding only on the files that a change affects has the same
// result as deciding on all files.
func TestSettleConcerned(t *testing.T) {
	w := newWorld(t, nil)
	random := rand.New(rand.NewPCG(1, 2))
	ids := []string{"a", "b", "c"}
	content := func() string {
		id := ids[random.IntN(len(ids))]
		switch random.IntN(8) {
		case 0:
			return "id: ["
		case 1:
			return "id: " + id + "\n"
		default:
			return managed(id, fmt.Sprintf("vault%d", random.IntN(4)))
		}
	}
	name := func() string { return fmt.Sprintf("%d.yaml", random.IntN(6)) }
	var history []string
	for range 400 {
		for range 1 + random.IntN(3) {
			from, to := name(), name()
			switch random.IntN(5) {
			case 0:
				_ = os.Remove(w.path(from)) // it may not exist
				history = append(history, "remove "+from)
			case 1:
				_ = os.Rename(w.path(from), w.path(to))
				history = append(history, "rename "+from+" "+to)
			default:
				text := content()
				w.write(to, text)
				history = append(history, fmt.Sprintf("write %s %q", to, text))
			}
		}
		w.poll()
		history = append(history, "poll")
		now := w.files.current.Load()
		anew := w.files.nextSnapshot(affected{files: maps.Clone(w.files.files), ids: map[string]bool{"a": true, "b": true, "c": true}}, now)
		if diff := cmp.Diff(told(now), told(anew)); diff != "" {
			t.Fatalf("%s\nafter %q", diff, history[max(0, len(history)-20):])
		}
		for i, in := range now.sorted {
			if s := now.byID[in.ID]; s.in != in || (i > 0 && now.sorted[i-1].ID >= in.ID) || len(now.sorted) != len(now.byID) {
				t.Fatalf("the list and the index differ in %s after %q", in.ID, history[max(0, len(history)-20):])
			}
		}
	}
}

// told describes the content of a snapshot.
func told(s *snapshot) (lines []string) {
	for _, id := range slices.Sorted(maps.Keys(s.byID)) {
		lines = append(lines, fmt.Sprint("serves ", id, " ", s.byID[id].in.Revision, " from ", s.byID[id].from.path))
	}
	for _, ff := range s.faults {
		lines = append(lines, fmt.Sprint("fault ", ff.File, " serving ", ff.Serving, " ", ff.Faults))
	}
	return lines
}
