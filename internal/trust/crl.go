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

// revocation is the CRLs in force, by issuer. Nil asks for none.
type revocation map[issuer]*crl

// issuer is an authority as its CRLs know it: two with one name and different
// keys are two.
type issuer struct{ subject, key string }

func issuerOf(ca *x509.Certificate) issuer {
	return issuer{string(ca.RawSubject), string(ca.RawSubjectPublicKeyInfo)}
}

// crl is one revocation list whose signature has been checked.
type crl struct {
	issuer                 issuer
	name                   string // of the issuer, for people
	thisUpdate, nextUpdate time.Time
	revoked                map[string]struct{} // serial numbers, as bytes
}

// revokedError says that a certificate has been revoked.
type revokedError struct{ name, serial string }

func (e revokedError) Error() string {
	return fmt.Sprintf("the certificate with serial number %s has been revoked by %q", e.serial, e.name)
}

// check looks for cert in the current CRL of the authority that issued it, and
// returns until when that CRL is current. No current CRL is a refusal: nobody
// knows then.
func (r revocation) check(cert, ca *x509.Certificate, now time.Time) (until time.Time, err error) {
	list, ok := r[issuerOf(ca)]
	switch {
	case !ok:
		return time.Time{}, fmt.Errorf("there is no CRL of %q, so that nobody knows whether the certificate has been revoked", ca.Subject)
	case list.lists(cert): // even an old list is right about this
		return time.Time{}, revokedError{list.name, cert.SerialNumber.Text(16)}
	case now.After(list.nextUpdate):
		return time.Time{}, fmt.Errorf("the CRL of %q should have been replaced by %s, so that nobody knows whether the certificate has been revoked", ca.Subject, stamp(list.nextUpdate))
	}
	return list.nextUpdate, nil
}

func (l *crl) lists(cert *x509.Certificate) bool {
	_, ok := l.revoked[string(cert.SerialNumber.Bytes())]
	return ok
}

// add puts a list in force unless a later one of its issuer is already.
func (r revocation) add(l *crl) {
	if have, ok := r[l.issuer]; !ok || l.thisUpdate.After(have.thisUpdate) {
		r[l.issuer] = l
	}
}

func (r revocation) count() int { return len(r) }

func (r revocation) firstExpiry() (first time.Time) {
	for _, l := range r {
		first = earliest(first, l.nextUpdate)
	}
	return first
}

// gaps says whose clients are refused because there is no current CRL.
func (r revocation) gaps(authorities []*x509.Certificate, now time.Time) []string {
	if r == nil {
		return nil
	}
	var texts []string
	for _, ca := range authorities {
		switch list, ok := r[issuerOf(ca)]; {
		case !ok:
			texts = append(texts, fmt.Sprintf("there is no CRL of the client authority %q: its clients are refused; add one to crl_files", ca.Subject))
		case now.After(list.nextUpdate):
			texts = append(texts, fmt.Sprintf("the CRL of the client authority %q should have been replaced by %s: its clients are refused; publish a new one", ca.Subject, stamp(list.nextUpdate)))
		}
	}
	return texts
}

// ageing says which CRLs will soon have to be replaced.
func (r revocation) ageing(now time.Time) []string {
	var texts []string
	for _, l := range slices.SortedFunc(maps.Values(r), func(a, b *crl) int { return bytes.Compare([]byte(a.name), []byte(b.name)) }) {
		if !now.After(l.nextUpdate) && expiresSoon(l.thisUpdate, l.nextUpdate, now) {
			texts = append(texts, fmt.Sprintf("the CRL of %q has to be replaced by %s; publish a new one", l.name, stamp(l.nextUpdate)))
		}
	}
	return texts
}

// errStale is wrapped by the fault of CRLs that are good but for their age.
var errStale = errors.New("publish a new one")

// parseCRLs reads a file of CRLs of these authorities. With errStale it returns
// the lists as well.
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

// signer returns the authority that signed the list.
func signer(list *x509.RevocationList, authorities []*x509.Certificate) (*x509.Certificate, error) {
	var fault error
	for _, ca := range authorities {
		if !bytes.Equal(ca.RawSubject, list.RawIssuer) {
			continue
		}
		if err := list.CheckSignatureFrom(ca); err != nil {
			fault = fmt.Errorf("the CRL says that it is of %q, but: %w", ca.Subject, err)
			continue
		}
		return ca, nil
	}
	if fault != nil {
		return nil, fault
	}
	return nil, fmt.Errorf("a CRL in it is of %q, which is not in the client CA file", list.Issuer)
}

// What makes a CRL one of a part of the certificates: RFC 5280, 5.2.4 and 5.2.5.
var (
	deltaIndicator = asn1.ObjectIdentifier{2, 5, 29, 27}
	distribution   = asn1.ObjectIdentifier{2, 5, 29, 28}
)

// complete refuses lists that cannot show that a certificate is not revoked.
func complete(list *x509.RevocationList) error {
	if list.NextUpdate.IsZero() {
		return errors.New("a CRL in it does not say when it has to be replaced (nextUpdate)")
	}
	for _, ext := range list.Extensions {
		if ext.Critical || ext.Id.Equal(deltaIndicator) || ext.Id.Equal(distribution) {
			return errors.New("a CRL in it is not complete (a delta CRL, or one of a distribution point); give the complete one")
		}
	}
	for _, entry := range list.RevokedCertificateEntries {
		for _, ext := range entry.Extensions {
			if ext.Critical {
				return errors.New("a CRL in it lists other authorities' certificates (an indirect CRL); give each authority's own")
			}
		}
	}
	return nil
}
