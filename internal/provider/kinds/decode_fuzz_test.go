package kinds

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzDecodeDocument: a document that is decoded and encoded again has the same
// meaning, also through the plain settings of the API.
func FuzzDecodeDocument(f *testing.F) {
	f.Add([]byte("id: a\nkind: AZURE_KEY_VAULT\nazure: {n: 010, t: yes, l: [1, \"2\", {x: 1e3}]}\ncache: {ttl: 90m}\ngrants: [{principals: [\"dns:a\"], keys: [\"\\t\"]}]\n"))
	f.Add([]byte("{id: \"on\", kind: LOCAL_FILE, local: {\"~\": \"null\", a: \"\\u2028\", b: \"- x\"}, roles: {auditor: [x]}, reads: {timeout: 1ns}}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		doc := All().DecodeDocument("f", data)
		if len(doc.Faults) > 0 {
			return
		}
		written, err := doc.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again := All().DecodeDocument("g", written)
		if err := again.Faults.Err(); err != nil {
			t.Fatalf("%v\n%s", err, written)
		}
		if diff := cmp.Diff(doc.Tree(), again.Tree()); diff != "" {
			t.Fatalf("%s\n%s", diff, written)
		}
		if err := again.SetSettings(doc.Settings()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(doc.Tree(), again.Tree()); diff != "" {
			t.Fatalf("%s\n%s", diff, written)
		}
	})
}
