// Package trust provides the broker's TLS identity and decides which client
// certificates are valid. It reads both from files or from the SPIFFE Workload API,
// and keeps them current while the broker runs.
//
// # Scope
//
// The package owns the broker's certificate and key, the client authorities (CAs) and
// their CRLs. It decides whether a chain of certificates is valid at a given time. It
// must not know gRPC, connections or the meaning of a certificate's names: package
// server derives a caller's identity from the verified chain and closes connections.
// No log line, error or problem contains any part of a private key.
//
// # Reading order
//
//  1. trust.go: Store, which server uses: TLSConfig for new connections, Peer for
//     open ones, Problems and Stats for operators.
//  2. snapshot.go: the immutable set of certificate, authorities and CRLs that is in
//     use, and the verification of a chain.
//  3. crl.go: CRLs, and which of them can prove that a certificate is not revoked.
//  4. files.go and workloadapi.go: the two sources of snapshots; crlfiles.go has the CRLs
//     of the first.
//
// # Snapshots
//
// Certificate, authorities and CRLs are replaced together, by a single atomic pointer.
// A handshake uses one snapshot from beginning to end and takes no lock. Closing the
// channel of the replaced snapshot notifies the owners of open connections, which then
// check their peers again.
//
// # An update that cannot be used is not applied
//
// Files are often replaced one after the other, and an editor or a full disk can leave
// half of a file. The Store therefore keeps the last valid certificate, authorities
// and CRLs, reports the error as a Problem and in the metrics, and tries again. A
// mistake in an update thus disconnects no clients, but the operator sees it before
// the old certificate expires. At startup there is nothing to keep, so an error is
// fatal.
//
// # Revocation fails closed
//
// If CRL files are configured, a client is accepted only if a current CRL exists for
// each authority in its chain. Without one, the broker cannot know whether the
// certificate has been revoked. A CRL that has expired still counts for the
// certificates that it lists, because revocation is permanent. crypto/tls does not
// check CRLs, and it verifies a chain only during the handshake, so Peer repeats the
// verification for open connections.
//
// # Trust in a silent Workload API ends
//
// The Workload API is the only source of the authorities of its trust domain. If it
// cannot be reached, an authority that has been removed would remain trusted. Trust
// in the last authorities therefore ends when the broker's own certificate expires.
package trust

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Options configures both kinds of Store. The zero value is useful.
type Options struct {
	// Logger receives one line when a problem appears and one when it is resolved.
	// Nil discards them.
	Logger *slog.Logger
	// Now is the clock for all checks of validity. Nil means time.Now.
	Now func() time.Time
	// Poll is the interval at which the Store reads files and checks for expiry.
	// Zero means 5 s.
	Poll time.Duration
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Poll = cmp.Or(o.Poll, 5*time.Second)
	return o
}

// Store contains the certificate, client authorities and CRLs that are in use. It is
// safe for concurrent use.
type Store struct {
	opts Options
	// read polls the source. It returns a new snapshot, or nil if nothing changed, and
	// the errors by source. It is nil if the source pushes updates.
	read func(now time.Time) (*snapshot, map[string]error)
	// files is the source that SetCRLs changes; nil with the Workload API.
	files *files
	// watch receives pushed updates until ctx ends. It is nil if the source is polled.
	watch func(ctx context.Context)

	current atomic.Pointer[snapshot]

	mu       sync.Mutex
	faults   map[string]string // the errors of the last read, by source
	failures uint64
	told     map[string]bool // the problems that have been logged and not resolved
}

func newStore(opts Options, first *snapshot) *Store {
	s := &Store{opts: opts, faults: make(map[string]string), told: make(map[string]bool)}
	s.current.Store(first)
	return s
}

// Run keeps the Store current until ctx ends, and then returns nil. It must not be
// called more than once.
func (s *Store) Run(ctx context.Context) error {
	var watching sync.WaitGroup
	defer watching.Wait()
	if s.watch != nil {
		watching.Go(func() { s.watch(ctx) })
	}
	poll := time.NewTicker(s.opts.Poll)
	defer poll.Stop()
	for {
		s.Reload()
		select {
		case <-ctx.Done():
			return nil
		case <-poll.C:
		}
	}
}

// Reload reads the files immediately. With the Workload API, which pushes its updates,
// it only checks for expiry.
func (s *Store) Reload() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.read != nil {
		next, faults := s.read(s.opts.Now())
		clear(s.faults)
		for source, err := range faults {
			s.faults[source] = err.Error()
		}
		s.failures += uint64(len(faults))
		if next != nil {
			s.replace(next)
		}
	}
	s.tell()
}

// replace makes next the current snapshot. The caller must hold s.mu.
func (s *Store) replace(next *snapshot) {
	previous := s.current.Swap(next)
	close(previous.superseded)
	s.opts.Logger.Info("certificate and client authorities in use", "serial", next.own.Leaf.SerialNumber.Text(16),
		"not_after", next.own.Leaf.NotAfter.UTC(), "client_authorities", len(next.authorities), "crls", next.crls.count())
}

// tell logs the problems that are new and those that have been resolved. The caller
// must hold s.mu.
func (s *Store) tell() {
	now := make(map[string]bool)
	for _, p := range s.problems() {
		text := p.Message
		now[text] = true
		if !s.told[text] {
			s.opts.Logger.Error("a problem with the broker's TLS", "problem", text)
		}
	}
	for text := range s.told {
		if !now[text] {
			s.opts.Logger.Info("a problem with the broker's TLS is resolved", "problem", text)
		}
	}
	s.told = now
}

// Problem is a problem that an operator should resolve.
type Problem struct {
	// Reason is the kind of the problem, such as CERTIFICATE_EXPIRED.
	Reason string
	// Message describes the problem, without a secret, and says what to do.
	Message string
}

func (p Problem) String() string { return p.Message }

// Problems returns the problems that an operator should resolve, in a stable order:
// sources that could not be read, and certificates and CRLs that have expired or will
// soon expire.
func (s *Store) Problems() []Problem {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.problems()
}

func (s *Store) problems() []Problem {
	var ps []Problem
	for _, source := range slices.Sorted(maps.Keys(s.faults)) {
		ps = append(ps, Problem{"RELOAD_FAILED", s.faults[source] + "; the last valid version remains in use"})
	}
	return append(ps, s.current.Load().problems(s.opts.Now())...)
}

// Stats contains values for metrics.
type Stats struct {
	// ReloadFailures is the number of failed attempts to read a source.
	ReloadFailures uint64
	// Server is the time at which the broker's certificate expires, ClientCA the time
	// at which the first client authority expires, and CRL the time at which the first
	// CRL must have been replaced, zero if there is no CRL.
	Server, ClientCA, CRL time.Time
}

// Stats returns the current values.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	failures := s.failures
	s.mu.Unlock()
	in := s.current.Load()
	st := Stats{ReloadFailures: failures, Server: in.own.Leaf.NotAfter, CRL: in.crls.firstExpiry()}
	for _, ca := range in.authorities {
		st.ClientCA = earliest(st.ClientCA, ca.NotAfter)
	}
	return st
}

// earliest returns the earlier of two times. A zero time counts as no time.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// Changed returns a channel that is closed when the snapshot that is current at the
// time of the call has been replaced.
func (s *Store) Changed() <-chan struct{} { return s.current.Load().superseded }

// TLSConfig returns the configuration of a listener. Each handshake uses the snapshot
// that is current when it begins. Session resumption is disabled: a resumed session
// would keep a client's identity without the checks of a full handshake, and runtimes
// connect rarely.
func (s *Store) TLSConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// GetConfigForClient replaces these. A handshake that used them nevertheless
		// would fail, because the pool is empty.
		ClientAuth:             tls.RequireAndVerifyClientCert,
		ClientCAs:              x509.NewCertPool(),
		SessionTicketsDisabled: true,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			in := s.current.Load()
			if leaf := in.own.Leaf; s.opts.Now().After(leaf.NotAfter) {
				return nil, fmt.Errorf("the broker's own certificate expired on %s", stamp(leaf.NotAfter))
			}
			return in.config(s.opts.Now), nil
		},
	}
}

// Peer is a connected client whose certificates are verified repeatedly.
type Peer struct {
	store *Store
	certs []*x509.Certificate
	// judged is the snapshot of the last successful verification, whose result is
	// valid until the time until.
	judged *snapshot
	until  time.Time
}

// Peer returns a Peer for the certificates that a client presented, the leaf first.
func (s *Store) Peer(certs []*x509.Certificate) *Peer {
	return &Peer{store: s, certs: certs}
}

// Check returns an error if a new handshake of the peer would fail now. It verifies
// the chain again only if the snapshot has changed since the last Check, or if a
// certificate or CRL of that verification has expired; otherwise it is cheap. It is
// not safe for concurrent use.
func (p *Peer) Check() error {
	in, now := p.store.current.Load(), p.store.opts.Now()
	if in == p.judged && !now.After(p.until) {
		return nil
	}
	until, err := in.verify(p.certs, now)
	if err != nil {
		return err
	}
	p.judged, p.until = in, until
	return nil
}

// errNoCertificate cannot occur after a handshake with TLSConfig. It ensures that a
// missing certificate is never accepted.
var errNoCertificate = errors.New("the client has presented no certificate that chains to a client authority")

// stamp formats a time for messages.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
