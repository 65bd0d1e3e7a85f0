package dirstore

import (
	"strings"
	"testing"
)

// Edits of a document change its Revision; only settings that a read depends on change its
// ReadRevision.
func TestReadRevisionOfFiles(t *testing.T) {
	w := newWorld(t, nil)
	w.write("secret", "s3cret")
	base := withSecret("a", "secret")
	w.write("a.yaml", base)
	w.reload()
	first := w.get("a")
	if first.ReadRevision == "" || first.ReadRevision == first.Revision {
		t.Fatalf("the revisions are %q and %q", first.ReadRevision, first.Revision)
	}
	for _, edit := range []string{
		"display_name: another\n", "placement: {region: westeurope}\n", "roles: {auditor: ['dns:a.example.org']}\n",
		"grants:\n  - principals: ['dns:b.example.org']\n", "cache: {ttl: 1h, max_stale: 2h}\n", "reads: {per_second: 7}\n", "# a comment\n",
	} {
		text := base
		if strings.HasPrefix(edit, "grants") {
			text, _, _ = strings.Cut(text, "grants:")
		}
		w.write("a.yaml", text+edit)
		w.reload()
		if now := w.get("a"); now == first || now.Revision == first.Revision || now.ReadRevision != first.ReadRevision {
			t.Errorf("%q: revisions %q and %q, were %q and %q", edit, now.Revision, now.ReadRevision, first.Revision, first.ReadRevision)
		}
	}
	last := first.ReadRevision
	for what, change := range map[string]func(){
		"reads":      func() { w.write("a.yaml", base+"reads: {max_concurrent: 7}\n") },
		"credential": func() { w.write("secret", "other") },
		"vaults":     func() { w.write("a.yaml", strings.Replace(base, ".vault.azure.net", "2.vault.azure.net", 1)) },
	} {
		change()
		w.reload()
		now := w.get("a").ReadRevision
		if now == last {
			t.Errorf("%s: the revision of reads is the same", what)
		}
		last = now
	}
}
