package integration

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
)

// withoutEdits returns a copy of the integration with only those settings that a
// read of a store depends on. A new field belongs to them unless it is listed
// here: the worst that comes of a missing line is a read too many. Credentials are
// funcs, which cannot be compared; their digests represent them.
func withoutEdits(in *Integration) Integration {
	of := *in
	of.Revision, of.ReadRevision = "", ""
	of.DisplayName = ""
	// The policy, the roles and the placement are asked in every call.
	of.Policy, of.Roles, of.Placement = nil, nil, Placement{}
	// These are given to the cache with every request, which applies them to what
	// it has.
	of.CacheTTL, of.CacheMaxStale = 0, 0
	// The queue of a store takes it over with every read.
	of.Limits.ReadsPerSecond = 0
	return of
}

// ReadRevision is a hash over what a read depends on: the settings, files, which
// is a hash over the content of the files that they name, and the digests of the
// credentials that are kept in place of files. A credential without a digest makes
// a revision that no other integration has.
func ReadRevision(in *Integration, files string, digests map[string]Digest) string {
	of := withoutEdits(in)
	settings, err := json.Marshal(&of)
	if err != nil { // a field of a type that JSON does not have
		return rand.Text()
	}
	h := sha256.New()
	write := func(part []byte) { // the fixed length keeps the parts apart
		sum := sha256.Sum256(part)
		h.Write(sum[:])
	}
	write(settings)
	write([]byte(files))
	for _, name := range slices.Sorted(maps.Keys(in.Credentials)) {
		digest, ok := digests[name]
		if !ok {
			return rand.Text()
		}
		write([]byte(name))
		write(digest[:])
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// FilesSum is a hash over the content of the files that a document names, federated
// tokens excluded; "" if it names none. Hashing hashes of a fixed length keeps apart
// what is in which file.
func FilesSum(contents []Content) string {
	if len(contents) == 0 {
		return ""
	}
	return hashOf(contents)
}

// Revision is a hash over the content of a document and of the files that it names.
func Revision(document Digest, contents []Content) string {
	return hashOf(append([]Content{{Sum: document}}, contents...))
}

func hashOf(contents []Content) string {
	h := sha256.New()
	for _, c := range contents {
		h.Write(c.Sum[:])
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}
