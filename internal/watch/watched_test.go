package watch

import (
	"slices"
	"testing"
	"time"
)

// TestWatched: a secret is listed with each reference by which it is watched, while a caller
// that may watches it.
func TestWatched(t *testing.T) {
	simulated(t, Config{}, func(t *testing.T, h *Hub, w *world) {
		w.set("a", "v1")
		w.set("b", "v2")
		const pinned = "#0123456789abcdef0123456789abcdef"
		s := open(t, h, alice, Item{Ref: ref("a")}, Item{Ref: ref("b")}, Item{Ref: ref("a" + pinned)})
		expect(t, s, time.Second, "0 CURRENT v1, 1 CURRENT v2, 2 CURRENT v1, complete")
		list := func(all []Watched) (texts []string) {
			for _, w := range all {
				texts = append(texts, w.Ref.String()+" "+w.Version)
			}
			slices.Sort(texts)
			return texts
		}
		a, p, b := store+"::a v1", store+"::a"+pinned+" v1", store+"::b v2"
		if got := list(h.Watched("it", store, "a")); !slices.Equal(got, []string{a, p}) {
			t.Errorf("Watched: %q", got)
		}
		if got := list(h.WatchedOf("it", store)); !slices.Equal(got, []string{a, p, b}) {
			t.Errorf("WatchedOf: %q", got)
		}
		for _, other := range [][3]string{{"it", store, "c"}, {"other", store, "a"}, {"it", "https://other.vault.azure.net", "a"}} {
			if len(h.Watched(other[0], other[1], other[2]))+len(h.WatchedOf("other", store)) != 0 {
				t.Errorf("%q is watched", other)
			}
		}
		w.mu.Lock()
		w.denied[alice] = true
		w.mu.Unlock()
		h.DecisionsChanged()
		expect(t, s, time.Second, "0 DENIED ACCESS_DENIED, 1 DENIED ACCESS_DENIED, 2 DENIED ACCESS_DENIED")
		if n := len(h.Watched("it", store, "a")) + len(h.WatchedOf("it", store)); n != 0 {
			t.Errorf("%d references are watched by callers that may not", n)
		}
		s.Close()
		if len(h.names) != 0 {
			t.Errorf("%d names remain", len(h.names))
		}
	})
}
