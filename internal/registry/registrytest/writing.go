package registrytest

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/registry"
)

const admin, other = "dns:admin.example.org", "dns:other.example.org"

func testCreate(t *testing.T, b *Backend) {
	s := b.Open(t, Settings{})
	before := time.Now().Add(-time.Millisecond)
	doc := document("a", "abc")
	r := mustCreate(t, s, registry.Change{Document: []byte(doc), By: admin})
	if r.ID != "a" || string(r.Document) != doc || r.ETag == "" || r.CreatedBy != admin || r.UpdatedBy != admin ||
		r.CreatedAt.Before(before) || !r.UpdatedAt.Equal(r.CreatedAt) || r.Integration == nil {
		t.Errorf("Create: %+v", r)
	}
	checkRecord(t, s, "a", r)
	if _, err := s.Create(t.Context(), registry.Change{Document: []byte(document("a", "xyz"))}); !errors.Is(err, registry.ErrExists) {
		t.Errorf("Create again: %v", err)
	}
	if got := mustGet(t, s, "a").Settings.StoreNames()[0]; got != "https://abc.vault.azure.net" {
		t.Errorf("after a Create that failed: %s", got)
	}
	// JSON is valid YAML.
	json := `{"id": "j", "kind": "AZURE_KEY_VAULT", "azure": {"credential": {"type": "default"}, "vaults": ["https://abc.vault.azure.net"]}}`
	if r := mustCreate(t, s, registry.Change{Document: []byte(json)}); string(r.Document) != json {
		t.Errorf("Create of JSON: %s", r.Document)
	}
	mustGet(t, s, "j")
}

func testUpdate(t *testing.T, b *Backend) {
	s := b.Open(t, Settings{})
	if _, err := s.Update(t.Context(), registry.Change{Document: []byte(document("a", "abc"))}); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("Update of nothing: %v", err)
	}
	r := mustCreate(t, s, registry.Change{Document: []byte(document("a", "abc")), By: admin})
	u := mustUpdate(t, s, registry.Change{Document: []byte(document("a", "xyz")), By: other, ETag: r.ETag})
	checkRecord(t, s, "a", u)
	if u.CreatedBy != admin || !u.CreatedAt.Equal(r.CreatedAt) || u.UpdatedBy != other || u.UpdatedAt.Before(r.UpdatedAt) || u.ETag == r.ETag {
		t.Errorf("Update: %+v of %+v", u, r)
	}
	if got := mustGet(t, s, "a").Settings.StoreNames()[0]; got != "https://xyz.vault.azure.net" {
		t.Errorf("after Update: %s", got)
	}
	if _, err := s.Update(t.Context(), registry.Change{Document: []byte(document("a", "old")), ETag: r.ETag}); !errors.Is(err, registry.ErrConflict) {
		t.Errorf("Update with the etag of before: %v", err)
	}
	mustUpdate(t, s, registry.Change{Document: []byte(document("a", "any"))})
	if got := mustGet(t, s, "a").Settings.StoreNames()[0]; got != "https://any.vault.azure.net" {
		t.Errorf("after an Update of whatever is there: %s", got)
	}
}

func testDelete(t *testing.T, b *Backend) {
	s := b.Open(t, Settings{})
	if err := s.Delete(t.Context(), "a", ""); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("Delete of nothing: %v", err)
	}
	r := mustCreate(t, s, registry.Change{Document: []byte(document("a", "abc"))})
	u := mustUpdate(t, s, registry.Change{Document: []byte(document("a", "xyz"))})
	if err := s.Delete(t.Context(), "a", r.ETag); !errors.Is(err, registry.ErrConflict) {
		t.Errorf("Delete with the etag of before: %v", err)
	}
	mustGet(t, s, "a")
	if err := s.Delete(t.Context(), "a", u.ETag); err != nil {
		t.Errorf("Delete: %v", err)
	}
	if _, err := s.Get("a"); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("Get after Delete: %v", err)
	}
	if _, err := s.Record(t.Context(), "a"); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("Record after Delete: %v", err)
	}
}

// No two states have the same etag or revision, even if their documents are equal.
func testETag(t *testing.T, b *Backend) {
	s := b.Open(t, Settings{})
	etags, revisions := map[string]bool{}, map[string]bool{}
	for i := range 8 {
		var r registry.Record
		c := registry.Change{Document: []byte(document("a", "abc"))} // the same document each time
		if i%2 == 0 {
			r = mustCreate(t, s, c)
		} else {
			r = mustUpdate(t, s, c)
		}
		etags[r.ETag], revisions[mustGet(t, s, "a").Revision] = true, true
		if i%2 == 1 {
			if err := s.Delete(t.Context(), "a", r.ETag); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(etags) != 8 || len(revisions) != 8 {
		t.Errorf("8 writes have %d etags and %d revisions", len(etags), len(revisions))
	}
}

var uuid4 = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

// An integration keeps its UID until it is deleted, and the next one with its id has another.
func testUID(t *testing.T, b *Backend) {
	s, replica := b.Open(t, Settings{}), b.Open(t, Settings{})
	doc := registry.Change{Document: []byte(document("a", "abc"))}
	check := func(what, want string) {
		t.Helper()
		replica.Reload()
		read, err := s.Record(t.Context(), "a")
		if err != nil || read.UID != want || read.Integration.UID != want || mustGet(t, s, "a").UID != want || mustGet(t, replica, "a").UID != want {
			t.Errorf("%s: want UID %s, got %q, %q, %q, %q; %v", what, want, read.UID, read.Integration.UID, mustGet(t, s, "a").UID, mustGet(t, replica, "a").UID, err)
		}
	}
	r := mustCreate(t, s, doc)
	if !uuid4.MatchString(r.UID) || r.Integration.UID != r.UID {
		t.Errorf("Create returned the UIDs %q and %q", r.UID, r.Integration.UID)
	}
	check("after Create", r.UID)
	if u := mustUpdate(t, s, registry.Change{Document: []byte(document("a", "xyz"))}); u.UID != r.UID {
		t.Errorf("Update returned the UID %s instead of %s", u.UID, r.UID)
	}
	check("after Update", r.UID)
	if err := s.Delete(t.Context(), "a", ""); err != nil {
		t.Fatal(err)
	}
	again := mustCreate(t, s, doc)
	if again.UID == r.UID || !uuid4.MatchString(again.UID) {
		t.Errorf("the UID after a deletion is %q, before it was %s", again.UID, r.UID)
	}
	check("created again", again.UID)
}

func testQuota(t *testing.T, b *Backend) {
	s := b.Open(t, Settings{MaxIntegrations: 2})
	mustCreate(t, s, registry.Change{Document: []byte(document("a", "abc"))})
	mustCreate(t, s, registry.Change{Document: []byte(document("b", "abc"))})
	third := registry.Change{Document: []byte(document("c", "abc"))}
	if _, err := s.Create(t.Context(), third); !errors.Is(err, registry.ErrQuota) {
		t.Errorf("Create of one too many: %v", err)
	}
	mustUpdate(t, s, registry.Change{Document: []byte(document("a", "xyz"))})
	if err := s.Delete(t.Context(), "b", ""); err != nil {
		t.Fatal(err)
	}
	mustCreate(t, s, third)
}

func testInvalid(t *testing.T, b *Backend) {
	s := b.Open(t, Settings{})
	mustCreate(t, s, registry.Change{Document: []byte(document("a", "abc"))})
	const planted = "pl4nted-Secret"
	for name, doc := range map[string]string{
		"empty":           "",
		"no id":           strings.Replace(document("a", "abc"), "id: a", "display_name: a", 1),
		"unknown setting": document("a", "abc") + "unknown: " + planted,
		"upper-case id":   strings.Replace(document("a", "abc"), "id: a", "id: A", 1),
		"bad grant":       strings.Replace(document("a", "abc"), worker, "'"+planted+"'", 1),
		"no credential":   secretDocument("a"),
		"any file": strings.Replace(secretDocument("a"), "{type: client_secret}",
			"{type: client_secret, client_secret_file: /etc/hostname}", 1),
		"relative file": strings.Replace(secretDocument("a"), "{type: client_secret}",
			"{type: client_secret, client_secret_file: x}", 1),
		"not text":     document("a", "abc") + "\xff",
		"a zero":       document("a", "abc") + "\x00",
		"two of them":  document("a", "abc") + "---\n" + document("b", "abc"),
		"a huge thing": document("a", "abc") + "# " + strings.Repeat("x", 1<<20),
	} {
		for method, call := range map[string]func(context.Context, registry.Change) (registry.Record, error){"Create": s.Create, "Update": s.Update} {
			_, err := call(t.Context(), registry.Change{Document: []byte(doc)})
			var invalid *registry.InvalidError
			if !errors.As(err, &invalid) || len(invalid.Faults) == 0 {
				if method == "Create" && errors.Is(err, registry.ErrExists) {
					continue // Create checks first whether the id exists
				}
				t.Errorf("%s, %s: %v", method, name, err)
			} else if strings.Contains(err.Error(), planted) {
				t.Errorf("%s, %s: the fault quotes: %v", method, name, err)
			}
		}
	}
	if got := mustGet(t, s, "a").Settings.StoreNames()[0]; got != "https://abc.vault.azure.net" || ids(s.List()) != "a" {
		t.Errorf("something was written: %s, %s", got, ids(s.List()))
	}
}

func testValidateOnly(t *testing.T, b *Backend) {
	s := b.Open(t, Settings{MaxIntegrations: 1})
	c := registry.Change{Document: []byte(document("a", "abc")), ValidateOnly: true}
	r := mustCreate(t, s, c)
	if r.ID != "a" || r.UID != "" || r.ETag != "" || !r.CreatedAt.IsZero() || r.Integration == nil || ids(s.List()) != "" || recordIDs(t, s, registry.Page{}) != "" {
		t.Errorf("Create: %+v; List: %s", r, ids(s.List()))
	}
	if _, err := s.Update(t.Context(), c); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("Update: %v", err)
	}
	kept := mustCreate(t, s, registry.Change{Document: []byte(document("a", "abc"))})
	if _, err := s.Create(t.Context(), c); !errors.Is(err, registry.ErrExists) {
		t.Errorf("Create again: %v", err)
	}
	if _, err := s.Create(t.Context(), registry.Change{Document: []byte(document("b", "abc")), ValidateOnly: true}); !errors.Is(err, registry.ErrQuota) {
		t.Errorf("Create of one too many: %v", err)
	}
	mustUpdate(t, s, registry.Change{Document: []byte(document("a", "xyz")), ETag: kept.ETag, ValidateOnly: true})
	if _, err := s.Update(t.Context(), registry.Change{Document: []byte(document("a", "xyz")), ETag: "x", ValidateOnly: true}); !errors.Is(err, registry.ErrConflict) {
		t.Errorf("Update with another etag: %v", err)
	}
	if now, err := s.Record(t.Context(), "a"); err != nil || now.ETag != kept.ETag || string(now.Document) != document("a", "abc") {
		t.Errorf("something was written: %+v, %v", now, err)
	}
}

// A cancelled call does not count as an outage, and writes nothing.
func testCancelled(t *testing.T, b *Backend) {
	s := b.Open(t, Settings{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Create(ctx, registry.Change{Document: []byte(document("a", "abc"))}); !errors.Is(err, context.Canceled) {
		t.Errorf("Create: %v", err)
	}
	if _, err := s.Records(ctx, registry.Page{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Records: %v", err)
	}
	if _, err := s.Record(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("Record: %v", err)
	}
	validated := registry.Change{Document: []byte(document("a", "abc")), ValidateOnly: true}
	if _, err := s.Create(ctx, validated); !errors.Is(err, context.Canceled) {
		t.Errorf("Create, validated only: %v", err)
	}
	if got := s.Status().Problem; got != "" {
		t.Errorf("Status: %s", got)
	}
	mustCreate(t, s, registry.Change{Document: []byte(document("a", "abc"))})
}

func testReplicas(t *testing.T, b *Backend) {
	first, second := b.Open(t, Settings{}), b.Open(t, Settings{})
	run(t, second)
	mustCreate(t, first, registry.Change{Document: []byte(document("a", "abc"))})
	asynctest.Eventually(t, "a new integration", func() bool { _, err := second.Get("a"); return err == nil })
	if want, got := recordIDs(t, first, registry.Page{}), recordIDs(t, second, registry.Page{}); got != want {
		t.Errorf("Records of the other Store: %q, want %q", got, want)
	}
	if x, y := mustGet(t, first, "a").Revision, mustGet(t, second, "a").Revision; x != y {
		t.Errorf("replicas give one state the revisions %s and %s", x, y)
	}
	revoked := strings.Replace(document("a", "abc"), worker, "spiffe://example.org/somebody/else", 1)
	mustUpdate(t, first, registry.Change{Document: []byte(revoked)})
	revision := mustGet(t, first, "a").Revision
	asynctest.Eventually(t, "a change", func() bool { return mustGet(t, second, "a").Revision == revision })
	checkRecord(t, second, "a", mustRecord(t, first, "a"))
	if err := first.Delete(t.Context(), "a", ""); err != nil {
		t.Fatal(err)
	}
	asynctest.Eventually(t, "a removal", func() bool { _, err := second.Get("a"); return errors.Is(err, registry.ErrNotFound) })
	if _, err := second.Record(t.Context(), "a"); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("Record after the removal: %v", err)
	}
}

// After Refresh, a Store that does not run shows what another Store has written.
func testRefresh(t *testing.T, b *Backend) {
	first, second := b.Open(t, Settings{}), b.Open(t, Settings{})
	created := mustCreate(t, first, registry.Change{Document: []byte(document("a", "abc")), By: admin})
	if _, err := second.Record(t.Context(), "a"); !errors.Is(err, registry.ErrNotFound) {
		t.Fatalf("a Store that does not run has read the change: %v", err)
	}
	mustRefresh(t, second)
	checkRecord(t, second, "a", created)
	updated := mustUpdate(t, first, registry.Change{Document: []byte(document("a", "xyz")), By: other})
	// Only the check of a change depends on what was read; the change itself does not.
	stale := registry.Change{Document: []byte(document("a", "abc")), ETag: updated.ETag, ValidateOnly: true}
	if _, err := second.Update(t.Context(), stale); !errors.Is(err, registry.ErrConflict) {
		t.Errorf("a change is not checked against what Record returns: %v", err)
	}
	if _, err := second.Update(t.Context(), registry.Change{Document: []byte(document("a", "abc")), ETag: created.ETag}); !errors.Is(err, registry.ErrConflict) {
		t.Errorf("Update with the etag of before: %v", err)
	}
	mustRefresh(t, second)
	checkRecord(t, second, "a", updated)
	if err := first.Delete(t.Context(), "a", ""); err != nil {
		t.Fatal(err)
	}
	mustRefresh(t, second)
	if got := recordIDs(t, second, registry.Page{}); got != "" {
		t.Errorf("Records after the removal: %s", got)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := second.Refresh(cancelled); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("Refresh: %v", err)
	}
}

func mustRefresh(t *testing.T, s registry.Store) {
	t.Helper()
	if err := s.Refresh(t.Context()); err != nil {
		t.Fatalf("Refresh: %v", err)
	}
}

func mustRecord(t *testing.T, s registry.Store, id string) registry.Record {
	t.Helper()
	r, err := s.Record(t.Context(), id)
	if err != nil {
		t.Fatalf("Record(%s): %v", id, err)
	}
	return r
}

// checkRecord checks that Record returns want. An Integration has no comparable form.
func checkRecord(t *testing.T, s registry.Store, id string, want registry.Record) {
	t.Helper()
	got := mustRecord(t, s, id)
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(registry.Record{}, "Integration"), cmpopts.EquateEmpty()); diff != "" || got.Integration == nil {
		t.Errorf("Record(%s) (-want +got):\n%s", id, diff)
	}
}

// If several writers replace the same state on any replicas, exactly one succeeds, and no
// write is lost.
func testTwoWriters(t *testing.T, b *Backend) {
	stores := []registry.Store{b.Open(t, Settings{}), b.Open(t, Settings{})}
	r := mustCreate(t, stores[0], registry.Change{Document: []byte(document("a", "vault0"))})
	for round := range 5 {
		var writers sync.WaitGroup
		var mu sync.Mutex
		var won []registry.Record
		for i := range 8 {
			writers.Go(func() {
				doc := document("a", fmt.Sprintf("vault%d-%d", round, i))
				next, err := stores[i%2].Update(t.Context(), registry.Change{Document: []byte(doc), ETag: r.ETag})
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					won = append(won, next)
				} else if !errors.Is(err, registry.ErrConflict) {
					t.Errorf("Update: %v", err)
				}
			})
		}
		writers.Wait()
		if len(won) != 1 {
			t.Fatalf("%d writers replaced one state", len(won))
		}
		mustRefresh(t, stores[round%2])
		if now, err := stores[round%2].Record(t.Context(), "a"); err != nil || string(now.Document) != string(won[0].Document) || now.ETag != won[0].ETag {
			t.Errorf("kept is not what the winner wrote: %+v, %v", now, err)
		}
		r = won[0]
	}
	// The same applies to an id that is taken, and to the quota.
	var writers sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		writers.Go(func() {
			_, errs[i] = stores[i%2].Create(t.Context(), registry.Change{Document: []byte(document("new", "abc"))})
		})
	}
	writers.Wait()
	made := 0
	for _, err := range errs {
		if err == nil {
			made++
		} else if !errors.Is(err, registry.ErrExists) {
			t.Errorf("Create: %v", err)
		}
	}
	if made != 1 {
		t.Errorf("%d writers created one integration", made)
	}
}
