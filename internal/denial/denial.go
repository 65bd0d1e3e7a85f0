// Package denial implements the deny list: client certificates and principals that the
// broker refuses although their certificates are valid, for example because a key has
// leaked.
//
// The package defines the entries, finds the entry of a certificate, reads entries from a
// file, and combines the lists of several sources (a file and a database) into the one in
// effect. It must not know connections or the database. Package server refuses denied
// callers, package sqlstore stores entries.
//
// # Failing closed
//
// A source whose content cannot be read keeps its last list: an entry is only removed by a
// valid list without it, or by its expiry. At the start there is no last list, so a file
// that cannot be read is an error.
package denial

import (
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/secretbroker/secretbroker/internal/authz"
)

// The bounds of a list and its entries.
const (
	// MaxEntries is the maximum number of entries of one source.
	MaxEntries = 10_000
	// MaxReason is the maximum length of a reason, in bytes.
	MaxReason = 500
	// maxIssuer is the maximum length of an issuer, in bytes.
	maxIssuer = 1024
	// maxSerial is the maximum length of a serial number in hexadecimal digits; RFC 5280
	// allows 20 bytes.
	maxSerial = 40
)

// Subject is what an entry denies: exactly one of a principal, the SHA-256 fingerprint of a
// certificate, and the serial number of a certificate together with its issuer. It is
// comparable. Canonical returns the form in which subjects are compared.
type Subject struct {
	Principal authz.Principal
	// SHA256 is the hash of the certificate's DER form, in hexadecimal.
	SHA256 string
	// Serial is in hexadecimal, and Issuer the issuer's name as IssuerOf returns it.
	Serial, Issuer string
}

// String returns the subject as commands and logs show it.
func (s Subject) String() string {
	switch {
	case s.SHA256 != "":
		return "sha256:" + s.SHA256
	case s.Serial != "":
		return "serial:" + s.Serial + " issued by " + s.Issuer
	default:
		return string(s.Principal)
	}
}

// Fault is an error in one field of a subject or an entry. It does not quote the field.
type Fault struct {
	// Field is the name of the field in the API and in files.
	Field string
	Text  string
}

func (f *Fault) Error() string { return f.Field + ": " + f.Text }

// Canonical returns the canonical form of a subject. Hexadecimal digits may be in upper or
// lower case, with colons between bytes, as openssl prints them. The error is a *Fault.
func (s Subject) Canonical() (Subject, error) {
	given := 0
	for _, set := range []bool{s.Principal != "", s.SHA256 != "", s.Serial != "" || s.Issuer != ""} {
		if set {
			given++
		}
	}
	if given != 1 {
		return Subject{}, &Fault{"principal", "expected exactly one of principal, certificate_sha256, and certificate_serial with certificate_issuer"}
	}
	switch {
	case s.Principal != "":
		who, err := authz.ParsePrincipal(string(s.Principal))
		if err != nil {
			return Subject{}, &Fault{"principal", err.Error()}
		}
		return Subject{Principal: who}, nil
	case s.SHA256 != "":
		sum, err := hex.DecodeString(digits(s.SHA256))
		if err != nil || len(sum) != sha256.Size {
			return Subject{}, &Fault{"certificate_sha256", "expected the SHA-256 fingerprint of a certificate, 64 hexadecimal digits; secretbroker whoami --cert FILE prints it"}
		}
		return Subject{SHA256: hex.EncodeToString(sum)}, nil
	}
	serial, err := canonicalSerial(s.Serial)
	if err != nil {
		return Subject{}, err
	}
	if !printable(s.Issuer, maxIssuer) || strings.TrimSpace(s.Issuer) != s.Issuer || s.Issuer == "" {
		return Subject{}, &Fault{"certificate_issuer", "expected the name of the certificate's issuer, such as CN=clients,O=Example: a serial number is unique only for one issuer; secretbroker whoami --cert FILE prints it"}
	}
	return Subject{Serial: serial, Issuer: s.Issuer}, nil
}

func canonicalSerial(s string) (string, error) {
	text := strings.TrimPrefix(digits(s), "0x")
	for _, c := range text {
		if !strings.ContainsRune("0123456789abcdef", c) {
			text = ""
			break
		}
	}
	if text == "" || len(text) > maxSerial+2 {
		return "", &Fault{"certificate_serial", "expected the serial number of a certificate in hexadecimal; secretbroker whoami --cert FILE prints it"}
	}
	return cmp.Or(strings.TrimLeft(text, "0"), "0"), nil
}

// digits removes the colons between bytes.
func digits(s string) string { return strings.ToLower(strings.ReplaceAll(s, ":", "")) }

func printable(s string, limit int) bool {
	if len(s) > limit || !utf8.ValidString(s) {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// Entry is one entry of the deny list.
type Entry struct {
	Subject
	// Reason is a text for people, at most MaxReason bytes. Denied callers do not get it.
	Reason string
	// ExpiresAt is when the entry ceases to have an effect; zero means never.
	ExpiresAt time.Time
	// CreatedAt and CreatedBy are zero for entries in a file.
	CreatedAt time.Time
	CreatedBy authz.Principal
	// InFile reports that the entry is in this broker's file, not in the database.
	InFile bool
}

// Canonical returns the entry with its subject in canonical form. The error is a *Fault.
func (e Entry) Canonical() (Entry, error) {
	var err error
	if e.Subject, err = e.Subject.Canonical(); err != nil {
		return Entry{}, err
	}
	if !printable(e.Reason, MaxReason) {
		return Entry{}, &Fault{"reason", fmt.Sprintf("expected at most %d bytes of text on one line", MaxReason)}
	}
	return e, nil
}

// Expired reports whether the entry has no effect any more.
func (e *Entry) Expired(now time.Time) bool { return !e.ExpiresAt.IsZero() && !now.Before(e.ExpiresAt) }

// Later returns the later of the times at which two entries expire, where zero means never.
func Later(a, b time.Time) time.Time {
	if a.IsZero() || b.IsZero() {
		return time.Time{}
	}
	if b.After(a) {
		return b
	}
	return a
}

// Certificate is what entries are compared with: a client certificate, and the principal
// that it identifies, if any.
type Certificate struct {
	Principal authz.Principal
	SHA256    string
	Serial    string
	Issuer    string
}

// CertificateOf returns the Certificate of a leaf certificate that identifies who.
func CertificateOf(leaf *x509.Certificate, who authz.Principal) Certificate {
	sum := sha256.Sum256(leaf.Raw)
	return Certificate{Principal: who, SHA256: hex.EncodeToString(sum[:]), Serial: leaf.SerialNumber.Text(16), Issuer: IssuerOf(leaf)}
}

// IssuerOf returns the name of a certificate's issuer as entries contain it: in the form of
// RFC 2253, such as "CN=clients,O=Example".
func IssuerOf(cert *x509.Certificate) string { return cert.Issuer.String() }

// subjects are the subjects that deny the certificate.
func (c *Certificate) subjects() [3]Subject {
	return [3]Subject{{SHA256: c.SHA256}, {Serial: c.Serial, Issuer: c.Issuer}, {Principal: c.Principal}}
}

// Denies reports whether an entry with this subject denies the certificate.
func (s Subject) Denies(c Certificate) bool {
	subjects := c.subjects()
	return s != (Subject{}) && slices.Contains(subjects[:], s)
}

// List is an immutable list of entries. A nil List is empty.
type List struct {
	entries []Entry
	at      map[Subject]*Entry
}

// NewList returns a list of entries in canonical form. If several have the same subject, the
// one that expires last decides.
func NewList(entries []Entry) *List {
	l := &List{entries: slices.Clone(entries), at: make(map[Subject]*Entry, len(entries))}
	slices.SortStableFunc(l.entries, func(a, b Entry) int { return cmp.Compare(a.Subject.String(), b.Subject.String()) })
	for i := range l.entries {
		e := &l.entries[i]
		if old := l.at[e.Subject]; old == nil || Later(old.ExpiresAt, e.ExpiresAt) != old.ExpiresAt {
			l.at[e.Subject] = e
		}
	}
	return l
}

// Entries returns the entries, sorted by their subjects. The caller must not change them.
func (l *List) Entries() []Entry {
	if l == nil {
		return nil
	}
	return l.entries
}

// Find returns the entry that denies a certificate at the given time, or nil. Its duration
// does not depend on the number of entries.
func (l *List) Find(c Certificate, now time.Time) *Entry {
	if l == nil || len(l.entries) == 0 {
		return nil
	}
	for _, s := range c.subjects() {
		if e := l.at[s]; e != nil && !e.Expired(now) {
			return e
		}
	}
	return nil
}

// Get returns the entry with exactly this subject, which is in canonical form, or nil.
func (l *List) Get(s Subject) *Entry {
	if l == nil {
		return nil
	}
	return l.at[s]
}

// ErrNotFound means that there is no entry with this subject.
var ErrNotFound = errors.New("denial: there is no such entry")

// ErrFull means that the list has MaxEntries entries.
var ErrFull = fmt.Errorf("denial: the list has its maximum of %d entries; remove some", MaxEntries)
