package registrytest

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
)

func testEmpty(t *testing.T, b *Backend) {
	s := b.Open(t, Settings{})
	if _, err := s.Get("none"); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("Get: %v", err)
	}
	if _, err := s.Record(t.Context(), "none"); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("Record: %v", err)
	}
	if records, err := s.Records(t.Context(), registry.Page{}); err != nil || records == nil || len(records) != 0 {
		t.Errorf("Records: %v, %v", records, err)
	}
	if len(s.List()) != 0 || len(s.Faults()) != 0 {
		t.Errorf("List: %v, Faults: %v", s.List(), s.Faults())
	}
	if st := s.Status(); st.Backend == "" || st.Writable != (b.Write == nil) || st.SeenAt.IsZero() || st.Problem != "" || !st.RefusesAt.IsZero() {
		t.Errorf("Status: %+v", st)
	}
}

func testRead(t *testing.T, b *Backend) {
	s := b.Open(t, Settings{})
	doc := document("cspi-1", "abc")
	b.put(t, s, "cspi-1", doc)
	b.put(t, s, "another", document("another", "xyz"))
	in := mustGet(t, s, "cspi-1")
	if in.ID != "cspi-1" || in.Kind != secret.KindAzureKeyVault || in.Revision == "" || in.Policy == nil ||
		!slices.Equal(in.Settings.StoreNames(), []string{"https://abc.vault.azure.net"}) {
		t.Errorf("Get: %+v", in)
	}
	if mustGet(t, s, "cspi-1") != in {
		t.Error("another integration without a change")
	}
	if got := ids(s.List()); got != "another cspi-1" {
		t.Errorf("List: %s", got)
	}
	r, err := s.Record(t.Context(), "cspi-1")
	if err != nil {
		t.Fatal(err)
	}
	if r.ID != "cspi-1" || string(r.Document) != doc || r.ETag == "" || len(r.Credentials) != 0 ||
		r.Integration == nil || r.Integration.ID != "cspi-1" || len(r.Faults) != 0 || (r.File == "") != (b.Write == nil) {
		t.Errorf("Record: %+v", r)
	}
	other := b.Open(t, Settings{})
	if got := ids(other.List()); got != "another cspi-1" {
		t.Errorf("List of a Store opened later: %s", got)
	}
	if got := mustGet(t, other, "cspi-1"); got.Revision != in.Revision || got.ReadRevision != in.ReadRevision {
		t.Errorf("two Stores give one state the revisions %s, %s and %s, %s", in.Revision, in.ReadRevision, got.Revision, got.ReadRevision)
	}
	b.put(t, s, "cspi-1", document("cspi-1", "xyz"))
	now := mustGet(t, s, "cspi-1")
	if now.Revision == in.Revision || now.ReadRevision == in.ReadRevision || now.Settings.StoreNames()[0] != "https://xyz.vault.azure.net" {
		t.Errorf("after a change: %+v", now)
	}
	if in.Settings.StoreNames()[0] != "https://abc.vault.azure.net" {
		t.Error("an integration that was handed out has changed")
	}
	b.put(t, s, "cspi-1", "")
	if _, err := s.Get("cspi-1"); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("Get after the removal: %v", err)
	}
}

func testPaging(t *testing.T, b *Backend) {
	s := b.Open(t, Settings{})
	// Sorted by bytes, independent of the database's collation.
	for _, id := range []string{"b", "a0", "a_x", "a.1", "a-1", "a", "ab", "9"} {
		b.put(t, s, id, document(id, "abc"))
	}
	const all = "9 a a-1 a.1 a0 a_x ab b"
	for page, want := range map[registry.Page]string{
		{}:                       all,
		{Limit: 3}:               "9 a a-1",
		{After: "a.1", Limit: 3}: "a0 a_x ab",
		{After: "a-1"}:           "a.1 a0 a_x ab b",
		{After: "a-0", Limit: 1}: "a-1",
		{After: "b", Limit: 3}:   "",
		{Limit: 1000}:            all,
	} {
		if got := recordIDs(t, s, page); got != want {
			t.Errorf("Records(%+v): %s, want %s", page, got, want)
		}
	}
	if got := ids(s.List()); got != all {
		t.Errorf("List: %s", got)
	}
}

func testRun(t *testing.T, b *Backend) {
	s := b.Open(t, Settings{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	b.put(t, s, "a", document("a", "abc"))
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Run does not end")
	}
	mustGet(t, s, "a")
	if st := s.Status(); st.Problem != "" {
		t.Errorf("the end of Run is taken for an outage: %s", st.Problem)
	}
}

func testOnChange(t *testing.T, b *Backend) {
	var removed, changed string
	s := b.Open(t, Settings{OnChange: func(r, c []*integration.Integration) { removed, changed = ids(r), ids(c) }})
	expect := func(what, wantRemoved, wantChanged string) {
		t.Helper()
		if removed != wantRemoved || changed != wantChanged {
			t.Errorf("%s: removed %q, changed %q; want %q, %q", what, removed, changed, wantRemoved, wantChanged)
		}
		removed, changed = "", ""
	}
	b.put(t, s, "a", document("a", "abc"))
	expect("a new one", "", "a")
	b.put(t, s, "b", document("b", "abc"))
	expect("another one", "", "b")
	b.put(t, s, "a", document("a", "xyz"))
	expect("a change", "", "a")
	s.Reload()
	expect("no change", "", "")
	b.put(t, s, "a", "")
	expect("a removal", "a", "")
}

func testReadOnly(t *testing.T, b *Backend) {
	s := b.Open(t, Settings{})
	b.put(t, s, "a", document("a", "abc"))
	c := registry.Change{Document: []byte(document("a", "xyz"))}
	if _, err := s.Create(t.Context(), c); !errors.Is(err, registry.ErrReadOnly) {
		t.Errorf("Create: %v", err)
	}
	if _, err := s.Update(t.Context(), c); !errors.Is(err, registry.ErrReadOnly) {
		t.Errorf("Update: %v", err)
	}
	if err := s.Delete(t.Context(), "a", ""); !errors.Is(err, registry.ErrReadOnly) {
		t.Errorf("Delete: %v", err)
	}
	s.Reload()
	if got := mustGet(t, s, "a").Settings.StoreNames()[0]; got != "https://abc.vault.azure.net" {
		t.Errorf("a read-only Store was written to: %s", got)
	}
}
