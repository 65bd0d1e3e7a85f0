package trust

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// snapshot is the complete state that handshakes use. It is immutable.
type snapshot struct {
	own         *tls.Certificate // with Leaf
	authorities []*x509.Certificate
	roots       *x509.CertPool
	// crls is nil if revocation is not checked.
	crls revocation
	// trustUntil is the time at which the authorities cease to be trusted unless a new
	// snapshot arrives, because a source that cannot be reached cannot withdraw them.
	// Zero means never.
	trustUntil time.Time
	// superseded is closed when another snapshot has become current.
	superseded chan struct{}
}

func newSnapshot(own *tls.Certificate, authorities []*x509.Certificate, crls revocation, trustUntil time.Time) *snapshot {
	roots := x509.NewCertPool()
	for _, ca := range authorities {
		roots.AddCert(ca)
	}
	return &snapshot{own: own, authorities: authorities, roots: roots, crls: crls, trustUntil: trustUntil, superseded: make(chan struct{})}
}

// config returns the TLS configuration of one handshake.
func (s *snapshot) config(now func() time.Time) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{*s.own},
		ClientAuth:             tls.RequireAndVerifyClientCert,
		ClientCAs:              s.roots,
		SessionTicketsDisabled: true,
		Time:                   now,
		VerifyConnection: func(state tls.ConnectionState) error {
			_, err := s.judge(state.VerifiedChains, now())
			return err
		},
	}
}

// verify builds the chains of a peer in the same way as crypto/tls, and judges them.
func (s *snapshot) verify(certs []*x509.Certificate, now time.Time) (until time.Time, err error) {
	if len(certs) == 0 {
		return time.Time{}, errNoCertificate
	}
	intermediates := x509.NewCertPool()
	for _, cert := range certs[1:] {
		intermediates.AddCert(cert)
	}
	chains, err := certs[0].Verify(x509.VerifyOptions{
		Roots:         s.roots,
		Intermediates: intermediates,
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return time.Time{}, err
	}
	return s.judge(chains, now)
}

// judge decides whether to accept a client with these verified chains. until is the
// time up to which the result is valid for this snapshot. A revoked certificate in any
// chain rejects the client; otherwise one valid chain suffices.
func (s *snapshot) judge(chains [][]*x509.Certificate, now time.Time) (until time.Time, err error) {
	if !s.trustUntil.IsZero() && now.After(s.trustUntil) {
		return time.Time{}, fmt.Errorf("the client authorities have not been confirmed since %s", stamp(s.trustUntil))
	}
	err = errNoCertificate
	for _, chain := range chains {
		end, fault := s.judgeChain(chain, now)
		switch {
		case errors.As(fault, new(revokedError)):
			return time.Time{}, fault
		case fault != nil:
			err = fault
		case end.After(until):
			until = end
		}
	}
	if until.IsZero() {
		return time.Time{}, err
	}
	return until, nil
}

// judgeChain checks a chain for revocation. It returns the time at which the first
// certificate or CRL of the chain expires.
func (s *snapshot) judgeChain(chain []*x509.Certificate, now time.Time) (end time.Time, err error) {
	end = s.trustUntil
	for i, cert := range chain {
		end = earliest(end, cert.NotAfter)
		if s.crls == nil || i == len(chain)-1 { // the last certificate is a client authority
			continue
		}
		current, err := s.crls.check(cert, chain[i+1], now)
		if err != nil {
			return time.Time{}, err
		}
		end = earliest(end, current)
	}
	return end, nil
}

// problems describes what has expired, will soon expire, or is missing.
func (s *snapshot) problems(now time.Time) []Problem {
	var ps []Problem
	add := func(reason, format string, args ...any) {
		ps = append(ps, Problem{reason, fmt.Sprintf(format, args...)})
	}
	switch leaf := s.own.Leaf; {
	case now.After(leaf.NotAfter):
		add("CERTIFICATE_EXPIRED", "the broker's own certificate expired on %s: no client can connect; renew it", stamp(leaf.NotAfter))
	case expiresSoon(leaf.NotBefore, leaf.NotAfter, now):
		add("CERTIFICATE_EXPIRES_SOON", "the broker's own certificate expires on %s; renew it", stamp(leaf.NotAfter))
	}
	if s.trustUntil.IsZero() { // otherwise the Workload API renews the authorities
		for _, ca := range s.authorities {
			switch {
			case now.After(ca.NotAfter):
				add("CLIENT_CA_EXPIRED", "the client authority %q expired on %s: its clients are rejected; replace or remove it", ca.Subject, stamp(ca.NotAfter))
			case expiresSoon(ca.NotBefore, ca.NotAfter, now):
				add("CLIENT_CA_EXPIRES_SOON", "the client authority %q expires on %s; replace it", ca.Subject, stamp(ca.NotAfter))
			}
		}
	}
	ps = append(ps, s.crls.gaps(s.authorities, now)...)
	return append(ps, s.crls.ageing(now)...)
}

// expiresSoon reports whether less than a tenth of a validity period is left, or less
// than seven days of a long one.
func expiresSoon(from, to, now time.Time) bool {
	return to.Sub(now) < min(7*24*time.Hour, to.Sub(from)/10)
}
