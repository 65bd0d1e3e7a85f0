package integration

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
)

// withoutEdits returns a copy of the integration with only the settings that a read of a
// store depends on. A new field counts as such unless it is cleared here: forgetting one
// only causes unnecessary reads. Credentials are funcs, which cannot be compared; their
// digests represent them.
func withoutEdits(in *Integration) Integration {
	of := *in
	of.Revision, of.ReadRevision = "", ""
	of.DisplayName = ""
	// Every call evaluates the policy, the roles and the placement.
	of.Policy, of.Roles, of.Placement = nil, nil, Placement{}
	// These are passed to the cache with every request, and it applies them to existing
	// entries.
	of.CacheTTL, of.CacheMaxStale = 0, 0
	// The limiter of a store applies it with every read.
	of.Reads.PerSecond = 0
	return of
}

// ReadRevision is a hash of what a read depends on: the settings; files, a hash of the
// content of the files that they refer to; and the digests of the credentials that are
// stored instead of files. With a credential that has no digest, the revision is unique.
func ReadRevision(in *Integration, files string, digests map[string]Digest) string {
	of := withoutEdits(in)
	settings, err := json.Marshal(&of)
	if err != nil { // a field of a type that JSON does not support
		return rand.Text()
	}
	h := sha256.New()
	write := func(part []byte) { // parts have a fixed length, so they cannot be confused
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

// FilesSum is a hash of the content of the files that a document refers to, without
// federated tokens; "" if there are none. It hashes hashes of a fixed length, so the
// contents of different files cannot be confused.
func FilesSum(contents []Content) string {
	if len(contents) == 0 {
		return ""
	}
	return hashOf(contents)
}

// Revision is a hash of the content of a document and of the files that it refers to.
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
