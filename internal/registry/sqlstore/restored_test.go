package sqlstore

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/registry"
)

func TestWentBack(t *testing.T) {
	last := registry.Position{Revision: 5, Stamp: "five"}
	for _, c := range []struct {
		name   string
		last   registry.Position
		st     state
		logged string
		want   bool
	}{
		{"nothing seen yet", registry.Position{}, state{revision: 9, stamp: "nine"}, "", false},
		{"the same", last, state{revision: 5, stamp: "five"}, "five", false},
		{"later", last, state{revision: 7, stamp: "seven"}, "five", false},
		{"much later", last, state{revision: 70_000, stamp: "later"}, "", false},
		{"earlier", last, state{revision: 3, stamp: "three"}, "", true},
		{"another change of the same number", last, state{revision: 5, stamp: "other"}, "other", true},
		{"restored, and more changes since", last, state{revision: 7, stamp: "other"}, "another five", true},
		{"an empty database", last, state{}, "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := wentBack(c.last, &c.st, c.logged); got != c.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

// TestRestored: a running replica reports what has come back, a replica that starts
// reports that something may have, and neither reports ordinary changes.
func TestRestored(t *testing.T) {
	backends(t, func(t *testing.T, open opener) {
		var told []registry.Restored
		var log strings.Builder
		s := open.must(t, Config{Kinds: kinds.All(), OnRestored: func(r registry.Restored) { told = append(told, r) }, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		other := open.must(t, Config{Kinds: kinds.All()})
		for _, id := range []string{"a", "b", "c"} {
			create(t, other, document(id, "abc", "dns:w.example.org"))
		}
		s.Reload()
		save(t, s, "backup")
		update(t, other, document("a", "abc", "dns:other.example.org"))
		if err := other.Delete(t.Context(), "b", ""); err != nil {
			t.Fatal(err)
		}
		create(t, s, document("d", "abc", "dns:w.example.org"))
		s.Reload()
		seen := s.Position()
		if len(told) > 0 || strings.Contains(log.String(), "WARN") {
			t.Fatalf("ordinary changes were reported: %+v\n%s", told, log.String())
		}

		restore(t, s, "backup")
		s.Reload()
		if len(told) != 1 || !told[0].Known || told[0].Was != seen || told[0].Is != s.Position() || told[0].Is.Revision >= seen.Revision {
			t.Fatalf("told %+v", told)
		}
		var got []string
		for _, r := range told[0].Reversals {
			got = append(got, fmt.Sprintf("%s: %v -> %v", r.ID, strings.Contains(string(r.Before), "dns:w."), strings.Contains(string(r.After), "dns:w.")))
			if (r.ID == "b") != (r.Before == nil) || (r.ID == "d") != (r.After == nil) {
				t.Errorf("%+v", r)
			}
		}
		if want := []string{"a: false -> true", "b: false -> true", "d: true -> false"}; !slices.Equal(got, want) {
			t.Errorf("reversals %q, want %q", got, want)
		}
		if may, err := allowed(s, "a", "dns:w.example.org"); err != nil || !may {
			t.Errorf("the content of the database is not served: %v, %v", may, err)
		}
		if strings.Count(log.String(), "has gone back") != 1 {
			t.Errorf("log: %s", log.String())
		}

		// More changes than were lost, before the next look.
		update(t, other, document("a", "xyz", "dns:w.example.org"))
		s.Reload()
		seen = s.Position()
		restore(t, s, "backup")
		for range 3 {
			update(t, other, document("c", "xyz", "dns:w.example.org"))
		}
		if s.Reload(); len(told) != 2 || told[1].Is.Revision <= seen.Revision {
			t.Errorf("told %+v", told)
		}

		// A start with the position that an earlier process saw.
		for _, c := range []struct {
			seen registry.Position
			want int
		}{{seen, 1}, {s.Position(), 0}, {registry.Position{}, 0}} {
			told = nil
			if _, err := open(Config{Kinds: kinds.All(), Seen: c.seen, OnRestored: func(r registry.Restored) { told = append(told, r) }}); err != nil {
				t.Fatal(err)
			}
			if len(told) != c.want || c.want > 0 && (told[0].Known || told[0].Was != c.seen || told[0].Reversals != nil) {
				t.Errorf("start with the position %+v: %+v", c.seen, told)
			}
		}
	})
}
