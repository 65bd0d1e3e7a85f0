package secret

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The cache and the store do not see Key and Decoding, which apply after the read.
func TestRefSecret(t *testing.T) {
	r, err := ParseRef("https://abc.vault.azure.net::db#" + hex32 + "?decode=base64::key")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(azureRef("https://abc.vault.azure.net", "db", hex32, ""), r.Secret()); diff != "" {
		t.Errorf("Secret() (-want +got):\n%s", diff)
	}
}

func TestSameSecret(t *testing.T) {
	refs := []Ref{{}, {Kind: KindHashiCorpVault}, {Store: "a"}, {Name: "a"}, {Suffix: "a"}, {Version: "a"}, {Decoding: "base64"}, {Key: "a"}, {Name: "a", Key: "b"}}
	for i := range refs {
		for j := range refs {
			if got, want := refs[i].SameSecret(&refs[j]), refs[i].Secret() == refs[j].Secret(); got != want {
				t.Errorf("%+v and %+v: %v", refs[i], refs[j], got)
			}
		}
	}
}
