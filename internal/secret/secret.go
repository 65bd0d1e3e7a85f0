package secret

import (
	"errors"
	"strings"
	"time"
	"unicode/utf8"
)

// Secret is one version of a secret as a store answered it. It is shared by every
// caller that is answered from the same read, and does not change. Only New makes
// one.
//
// Whoever keeps or reads a Secret has a reference to it, from New or Retain, and
// gives it up with Release. With the last reference the value is overwritten with
// zeros; what is said about it (Version, FetchedAt, ExpiresAt, Size) stays. Select
// hands out copies, so that no reader can see a value being wiped, and none that
// comes later gets zeros for a value: it gets an error.
type Secret struct {
	// Version is the store's identifier of this version.
	Version string
	// FetchedAt is when the read began, so that the value is at least this
	// fresh. It carries a monotonic reading.
	FetchedAt time.Time
	// ExpiresAt is the end of the secret's own validity, zero if it has none.
	ExpiresAt time.Time

	payload hidden[payload]
}

// held is a Secret and its payload in one allocation.
type held struct {
	Secret
	payload payload
}

// New makes a Secret of the document b, which it takes ownership of: the caller
// must not use it afterwards. The caller has the first reference. The version is
// copied, because it is often a part of something longer, which would stay in
// memory as well.
func New(version string, fetchedAt, expiresAt time.Time, b []byte) *Secret {
	h := &held{Secret: Secret{Version: strings.Clone(version), FetchedAt: fetchedAt, ExpiresAt: expiresAt}}
	h.payload.b = b
	h.payload.refs.Store(1)
	h.Secret.payload = hide(&h.payload)
	return &h.Secret
}

// Again returns the same value as of a later moment, for a store that has
// confirmed it without sending it anew. It shares the payload and comes with a
// reference of its own; it is nil if the value has been wiped.
func (s *Secret) Again(fetchedAt, expiresAt time.Time) *Secret {
	if !s.Retain() {
		return nil
	}
	return &Secret{Version: s.Version, FetchedAt: fetchedAt, ExpiresAt: expiresAt, payload: s.payload}
}

// Retain adds a reference. It is false, and adds none, if the value has been
// wiped.
func (s *Secret) Retain() bool { return s.payload.get().retain() }

// Release gives up a reference and, if it is the last one, wipes the value. It
// panics if there is none left. A nil Secret has none to give up.
func (s *Secret) Release() {
	if s != nil {
		s.payload.get().release()
	}
}

// Size is the secret's payload in bytes.
func (s *Secret) Size() int { return len(s.payload.get().b) }

// errGone is a fault of the broker: somebody reads without having a reference.
var errGone = AsError(errors.New("secret: the value has been wiped"))

// Select returns what a reference with this key stands for: the whole secret
// for an empty key, else the top-level member of that literal name. Strings are
// returned as they are, numbers and booleans as JSON text, objects and arrays
// as compact JSON. The errors have ReasonSecretNotJSON or
// ReasonJSONKeyNotFound, or ReasonInternal if the value has been wiped, and
// quote nothing of the document.
//
// The Value is a copy that the caller owns and wipes.
func (s *Secret) Select(key string) (Value, error) {
	p := s.payload.get()
	if !p.retain() { // whatever references the caller has or lacks, nobody wipes meanwhile
		return Value{}, errGone
	}
	defer p.release()
	if key != "" {
		return p.member(key)
	}
	if !utf8.Valid(p.b) {
		return Value{}, Errorf(ReasonSecretNotJSON, "the secret is not valid UTF-8 text")
	}
	return p.whole(), nil
}
