package trust

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/secretbroker/secretbroker/internal/certfile"
)

// revocation is the CRLs in use, by issuer. Nil means that revocation is not checked.
type revocation map[issuer]*crl

// issuer identifies the authority of a CRL. Authorities with the same name and
// different keys are different issuers.
type issuer struct{ subject, key string }

func issuerOf(ca *x509.Certificate) issuer {
	return issuer{string(ca.RawSubject), string(ca.RawSubjectPublicKeyInfo)}
}

// crl is one revocation list whose signature has been checked.
type crl struct {
	issuer                 issuer
	name                   string // the issuer's name, for messages
	thisUpdate, nextUpdate time.Time
	revoked                map[string]struct{} // serial numbers, big-endian
}

// revokedError reports that a certificate has been revoked.
type revokedError struct{ name, serial string }

func (e revokedError) Error() string {
	return fmt.Sprintf("the certificate with serial number %s has been revoked by %q", e.serial, e.name)
}

// check looks up cert in the CRL of ca, the authority that issued it. It returns an
// error if the certificate is revoked or if there is no current CRL, and otherwise the
// time until which the CRL is current.
func (r revocation) check(cert, ca *x509.Certificate, now time.Time) (until time.Time, err error) {
	list, ok := r[issuerOf(ca)]
	switch {
	case !ok:
		return time.Time{}, fmt.Errorf("there is no CRL of %q, so the broker cannot know whether the certificate has been revoked", ca.Subject)
	case list.lists(cert): // also true if the list has expired
		return time.Time{}, revokedError{list.name, cert.SerialNumber.Text(16)}
	case now.After(list.nextUpdate):
		return time.Time{}, fmt.Errorf("the CRL of %q should have been replaced by %s, so the broker cannot know whether the certificate has been revoked", ca.Subject, stamp(list.nextUpdate))
	}
	return list.nextUpdate, nil
}

func (l *crl) lists(cert *x509.Certificate) bool {
	_, ok := l.revoked[string(cert.SerialNumber.Bytes())]
	return ok
}

// add adds a list, unless there already is a newer one of its issuer. Of two lists of the
// same second, both apply.
func (r revocation) add(l *crl) {
	have, ok := r[l.issuer]
	switch {
	case !ok || l.thisUpdate.After(have.thisUpdate):
		r[l.issuer] = l
	case l.thisUpdate.Equal(have.thisUpdate) && have != l:
		both := *have
		both.revoked = maps.Clone(have.revoked)
		maps.Copy(both.revoked, l.revoked)
		r[l.issuer] = &both
	}
}

func (r revocation) count() int { return len(r) }

func (r revocation) firstExpiry() (first time.Time) {
	for _, l := range r {
		first = earliest(first, l.nextUpdate)
	}
	return first
}

// gaps describes the authorities whose clients are rejected because there is no current
// CRL.
func (r revocation) gaps(authorities []*x509.Certificate, now time.Time) []Problem {
	if r == nil {
		return nil
	}
	var ps []Problem
	for _, ca := range authorities {
		switch list, ok := r[issuerOf(ca)]; {
		case !ok:
			ps = append(ps, Problem{"CRL_MISSING", fmt.Sprintf("there is no CRL of the client authority %q: its clients are rejected; add one to crl_files or crl_dir", ca.Subject)})
		case now.After(list.nextUpdate):
			ps = append(ps, Problem{"CRL_EXPIRED", fmt.Sprintf("the CRL of the client authority %q should have been replaced by %s: its clients are rejected; publish a new one", ca.Subject, stamp(list.nextUpdate))})
		}
	}
	return ps
}

// ageing describes the CRLs that will soon expire.
func (r revocation) ageing(now time.Time) []Problem {
	var ps []Problem
	for _, l := range slices.SortedFunc(maps.Values(r), func(a, b *crl) int { return bytes.Compare([]byte(a.name), []byte(b.name)) }) {
		if !now.After(l.nextUpdate) && expiresSoon(l.thisUpdate, l.nextUpdate, now) {
			ps = append(ps, Problem{"CRL_EXPIRES_SOON", fmt.Sprintf("the CRL of %q must be replaced by %s; publish a new one", l.name, stamp(l.nextUpdate))})
		}
	}
	return ps
}

// errStale is wrapped by the error for CRLs that are valid except that they have
// expired.
var errStale = errors.New("publish a new one")

// parseCRLs parses a file of CRLs that these authorities have signed. With errStale it
// also returns the lists.
func parseCRLs(data []byte, authorities []*x509.Certificate, now time.Time) ([]*crl, error) {
	parsed, err := certfile.RevocationLists(data)
	if err != nil {
		return nil, err
	}
	lists := make([]*crl, 0, len(parsed))
	var stale error
	for _, p := range parsed {
		if err := complete(p); err != nil {
			return nil, err
		}
		ca, err := signer(p, authorities)
		if err != nil {
			return nil, err
		}
		l := &crl{issuer: issuerOf(ca), name: ca.Subject.String(), thisUpdate: p.ThisUpdate, nextUpdate: p.NextUpdate,
			revoked: make(map[string]struct{}, len(p.RevokedCertificateEntries))}
		for _, entry := range p.RevokedCertificateEntries {
			l.revoked[string(entry.SerialNumber.Bytes())] = struct{}{}
		}
		switch {
		case now.Before(p.ThisUpdate):
			return nil, fmt.Errorf("the CRL of %q is not valid before %s; check the clock", l.name, stamp(p.ThisUpdate))
		case now.After(p.NextUpdate):
			stale = fmt.Errorf("the CRL of %q should have been replaced by %s; %w", l.name, stamp(p.NextUpdate), errStale)
		}
		lists = append(lists, l)
	}
	return lists, stale
}

// signer returns the authority that has signed the list.
func signer(list *x509.RevocationList, authorities []*x509.Certificate) (*x509.Certificate, error) {
	var fault error
	for _, ca := range authorities {
		if !bytes.Equal(ca.RawSubject, list.RawIssuer) {
			continue
		}
		if err := list.CheckSignatureFrom(ca); err != nil {
			fault = fmt.Errorf("the CRL names %q as its issuer, but: %w", ca.Subject, err)
			continue
		}
		return ca, nil
	}
	if fault != nil {
		return nil, fault
	}
	return nil, fmt.Errorf("it contains a CRL of %q, which is not in the client CA file", list.Issuer)
}

// The extensions of CRLs that cover only a part of the certificates of an authority:
// RFC 5280, 5.2.4 and 5.2.5.
var (
	deltaIndicator = asn1.ObjectIdentifier{2, 5, 29, 27}
	distribution   = asn1.ObjectIdentifier{2, 5, 29, 28}
)

// complete rejects lists that cannot prove that a certificate is not revoked.
func complete(list *x509.RevocationList) error {
	if list.NextUpdate.IsZero() {
		return errors.New("it contains a CRL without a time of its next update (nextUpdate)")
	}
	for _, ext := range list.Extensions {
		if ext.Critical || ext.Id.Equal(deltaIndicator) || ext.Id.Equal(distribution) {
			return errors.New("it contains a partial CRL (a delta CRL, or one for a distribution point); use the complete CRL")
		}
	}
	for _, entry := range list.RevokedCertificateEntries {
		for _, ext := range entry.Extensions {
			if ext.Critical {
				return errors.New("it contains an indirect CRL, which lists certificates of other authorities; use a CRL of each authority")
			}
		}
	}
	return nil
}
