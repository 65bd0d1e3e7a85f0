package secret

import (
	"errors"
	"strings"
	"time"
	"unicode/utf8"
)

// Secret is one version of a secret as a store returned it. All callers that one
// read answers share it. It is immutable. Only New,
// NewBinary, Again and WithVersion create one.
//
// Code that keeps or reads a Secret must own a reference to it, from New, Again or
// Retain, and drops the reference with Release. Dropping the last reference
// overwrites the value with zeros; Version, FetchedAt, ExpiresAt and Size remain
// valid. Select returns copies, so a reader never sees a value while it is
// overwritten. A reader that comes later gets an error instead of zeros.
type Secret struct {
	// Version is the store's identifier of this version.
	Version string
	// FetchedAt is the time at which the read began, so the value is at least
	// this fresh. It has a monotonic clock reading.
	FetchedAt time.Time
	// ExpiresAt is when the secret itself expires; zero means never.
	ExpiresAt time.Time

	payload hidden[payload]
	suffix  [AWSSuffixLen]byte // not a string, which would need another 32 bytes
}

// held puts a Secret and its payload into one allocation.
type held struct {
	Secret
	payload payload
}

// Form says what the bytes of a secret are.
type Form uint8

// The forms. Values are text, so the whole value of a secret in another form is the base64
// of its bytes, in the standard alphabet with padding. A JSON key selects from the bytes.
const (
	// Text is valid UTF-8.
	Text Form = iota
	// NotUTF8 is not valid UTF-8.
	NotUTF8
	// Binary is declared to be binary by the store, whether it is UTF-8 or not.
	Binary
)

// New returns a Secret that holds the document b, in the form Text or NotUTF8. It takes ownership of b: the
// caller must not use b afterwards. The caller owns the first reference. New clones
// the version, because it is often a substring of a longer text that would
// otherwise stay in memory.
func New(version string, fetchedAt, expiresAt time.Time, b []byte) *Secret {
	form := Text
	if !utf8.Valid(b) {
		form = NotUTF8
	}
	return newSecret(version, fetchedAt, expiresAt, b, form)
}

// NewBinary is New for a store that declares the bytes b to be binary: the form is Binary.
func NewBinary(version string, fetchedAt, expiresAt time.Time, b []byte) *Secret {
	return newSecret(version, fetchedAt, expiresAt, b, Binary)
}

func newSecret(version string, fetchedAt, expiresAt time.Time, b []byte, form Form) *Secret {
	h := &held{Secret: Secret{Version: strings.Clone(version), FetchedAt: fetchedAt, ExpiresAt: expiresAt}}
	h.payload.b, h.payload.form = b, form
	h.payload.refs.Store(1)
	h.Secret.payload = hide(&h.payload)
	return &h.Secret
}

// WithSuffix records the Suffix of the secret's ARN, as the store returned it, and returns
// s. Only the code that has created s calls it, before it passes s on.
func (s *Secret) WithSuffix(suffix string) *Secret {
	copy(s.suffix[:], suffix)
	return s
}

// HasSuffix reports whether a Ref with this Suffix names the secret, provided that the rest
// of the Ref does. An empty suffix names every secret.
func (s *Secret) HasSuffix(suffix string) bool {
	return suffix == "" || string(s.suffix[:]) == suffix
}

// Versions says what the versions of a secret are.
type Versions uint8

// The kinds of versions.
const (
	// StoreVersions: the store gives each content a version.
	StoreVersions Versions = iota
	// NoVersions: the store has no versions. What a Provider returns says nothing about the
	// content.
	NoVersions
	// GeneratedVersions: every read generates another secret.
	GeneratedVersions
)

// WithVersion returns s with another version, which of computes from the whole secret. of
// must not keep or change its argument. WithVersion takes over the caller's reference to s.
func (s *Secret) WithVersion(of func(document []byte) string) *Secret {
	p := s.payload.get()
	return &Secret{Version: of(p.b), FetchedAt: s.FetchedAt, ExpiresAt: s.ExpiresAt, suffix: s.suffix, payload: s.payload}
}

// Again returns a Secret with the same value and new times, for a store that has
// confirmed the value without sending it a second time. The result shares the
// payload, and the caller owns one reference to it. Again returns nil if the value
// has been wiped.
func (s *Secret) Again(fetchedAt, expiresAt time.Time) *Secret {
	if !s.Retain() {
		return nil
	}
	return &Secret{Version: s.Version, FetchedAt: fetchedAt, ExpiresAt: expiresAt, payload: s.payload, suffix: s.suffix}
}

// Retain adds a reference. If the value has been wiped, it adds none and returns
// false.
func (s *Secret) Retain() bool { return s.payload.get().retain() }

// Release drops a reference and wipes the value if it was the last one. It panics
// if no reference is left. On a nil Secret it does nothing.
func (s *Secret) Release() {
	if s != nil {
		s.payload.get().release()
	}
}

// Form returns the form of the secret's bytes.
func (s *Secret) Form() Form { return s.payload.get().form }

// Size returns the length of the whole secret in bytes.
func (s *Secret) Size() int { return s.payload.get().size() }

// errGone reports a bug in the broker: code called Select without owning a
// reference.
var errGone = AsError(errors.New("secret: the value has been wiped"))

// Select returns the value that a reference with this key selects: the whole
// secret for an empty key, otherwise the top-level member with that literal name.
// It returns strings without their quotes and escapes, numbers and booleans as
// JSON text, and objects and arrays as compact JSON. Errors have
// ReasonSecretNotJSON or ReasonJSONKeyNotFound, or ReasonInternal if the value has
// been wiped, and do not quote the document.
//
// The Value is a copy; the caller owns it and must wipe it.
func (s *Secret) Select(key string) (Value, error) {
	p := s.payload.get()
	if !p.retain() { // prevents a concurrent wipe even if the caller breaks the rules
		return Value{}, errGone
	}
	defer p.release()
	if key != "" {
		return p.member(key)
	}
	return p.whole(), nil
}
