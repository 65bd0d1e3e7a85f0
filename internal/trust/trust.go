// Package trust owns the broker's own certificate and whom it believes: read
// from files or from the SPIFFE Workload API, and kept current while the broker
// runs. What cannot be used leaves the last good one in force, loudly.
//
// It says whether a chain of certificates is good at a moment. It knows neither
// gRPC nor connections, nor what a certificate's names mean. No log line, error
// or problem quotes anything of a key.
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

// Options is what both sources take. The zero value is useful.
type Options struct {
	// Logger hears of problems and their end, once each. Nil is silent.
	Logger *slog.Logger
	// Now is the clock that validity is judged by. Nil is time.Now.
	Now func() time.Time
	// Poll is how often files are read and expiry is looked at: 5 s if zero.
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

// Store is the certificate and the trust in clients that are in force. It is
// safe for concurrent use.
type Store struct {
	opts Options
	// read brings a snapshot up to date and says what could not be used, by the
	// place it came from; nil where nothing is polled.
	read func(now time.Time) (*snapshot, map[string]error)
	// watch takes what is pushed until ctx ends; nil where nothing is.
	watch func(ctx context.Context)

	current atomic.Pointer[snapshot]

	mu       sync.Mutex
	faults   map[string]string // what cannot be used just now, by its place
	failures uint64
	told     map[string]bool // the problems that stand in the log
}

func newStore(opts Options, first *snapshot) *Store {
	s := &Store{opts: opts, faults: make(map[string]string), told: make(map[string]bool)}
	s.current.Store(first)
	return s
}

// Run keeps the Store current until ctx ends, and then returns nil. It is called
// once at most.
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

// Reload reads the files at once. What the Workload API says is always current,
// or cannot be had.
func (s *Store) Reload() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.read != nil {
		next, faults := s.read(s.opts.Now())
		clear(s.faults)
		for place, err := range faults {
			s.faults[place] = err.Error()
		}
		s.failures += uint64(len(faults))
		if next != nil {
			s.replace(next)
		}
	}
	s.tell()
}

// replace puts next in force. The lock is held.
func (s *Store) replace(next *snapshot) {
	previous := s.current.Swap(next)
	close(previous.superseded)
	s.opts.Logger.Info("certificate and client authorities in force", "serial", next.own.Leaf.SerialNumber.Text(16),
		"not_after", next.own.Leaf.NotAfter.UTC(), "client_authorities", len(next.authorities), "crls", next.crls.count())
}

// tell logs the problems that are new and those that are over. The lock is held.
func (s *Store) tell() {
	now := make(map[string]bool)
	for _, text := range s.problems() {
		now[text] = true
		if !s.told[text] {
			s.opts.Logger.Error("a problem with the broker's TLS", "problem", text)
		}
	}
	for text := range s.told {
		if !now[text] {
			s.opts.Logger.Info("a problem with the broker's TLS is over", "problem", text)
		}
	}
	s.told = now
}

// Problems says what an operator should know of, in a stable order: what could
// not be read, and what has expired or is about to.
func (s *Store) Problems() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.problems()
}

func (s *Store) problems() []string {
	var texts []string
	for _, place := range slices.Sorted(maps.Keys(s.faults)) {
		texts = append(texts, s.faults[place]+"; what was in force before stays in force")
	}
	return append(texts, s.current.Load().problems(s.opts.Now())...)
}

// Stats are figures for metrics.
type Stats struct {
	// ReloadFailures counts what could not be used, at every attempt.
	ReloadFailures uint64
	// Server is when the certificate in force expires; ClientCA when the first of
	// the client authorities does; CRL when the first CRL in force is no longer
	// current, zero if there is none.
	Server, ClientCA, CRL time.Time
}

// Stats returns the figures of this moment.
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

// earliest takes a zero time for none.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// Changed returns a channel that is closed when something else comes into force
// than what is at the time of the call.
func (s *Store) Changed() <-chan struct{} { return s.current.Load().superseded }

// TLSConfig returns the configuration of a listener. Each handshake uses what is
// in force when it begins. Connections cannot be resumed: that would carry an
// identity past the checks that a handshake makes, and runtimes connect rarely.
func (s *Store) TLSConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// Should a handshake ever take these and not what GetConfigForClient
		// returns, it ends: nobody is trusted.
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

// Peer is a client that has been let in, to be judged again and again.
type Peer struct {
	store *Store
	certs []*x509.Certificate
	// judged is what the last judgement rests on, and until the time up to which
	// it holds.
	judged *snapshot
	until  time.Time
}

// Peer returns a Peer for the certificates that a client showed, the leaf first.
func (s *Store) Peer(certs []*x509.Certificate) *Peer {
	return &Peer{store: s, certs: certs}
}

// Check says why the peer would not be let in just now; nil if it would. It
// verifies the chain anew when something else has come into force since the last
// Check, or when a certificate or CRL that it rested on has expired, and is cheap
// otherwise. It is not safe for concurrent use.
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

// errNoCertificate cannot happen behind TLSConfig; it is the closed answer.
var errNoCertificate = errors.New("the client has shown no certificate that leads to a client authority")

// stamp writes a time for people.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
