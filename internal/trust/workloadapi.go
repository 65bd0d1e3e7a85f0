package trust

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// WorkloadAPIConfig configures a Store that uses the SPIFFE Workload API. Socket and
// TrustDomain are required.
type WorkloadAPIConfig struct {
	// Socket is the address of the SPIFFE Workload API, such as
	// "unix:///run/spire/agent.sock".
	Socket string
	// TrustDomain is the broker's trust domain, and the only one whose workloads it
	// accepts: federated bundles are ignored.
	TrustDomain spiffeid.TrustDomain
	// StartTimeout limits the wait for the first identity. Zero means 30 s.
	StartTimeout time.Duration
	// Retry is the delay after a failure; at startup it is a fifth of this. Zero
	// means 5 s.
	Retry time.Duration
	Options
}

// workloadAPI receives the updates that the Workload API pushes.
type workloadAPI struct {
	cfg   WorkloadAPIConfig
	store *Store
}

// OpenWorkloadAPI waits for the broker's identity and the bundle of its trust domain.
// Run keeps both current. While the agent cannot be reached, the last ones remain in
// use until the broker's own certificate expires. Then new connections are rejected
// and Peer.Check fails for open ones, because only the agent knows which authorities
// are still valid.
func OpenWorkloadAPI(ctx context.Context, cfg WorkloadAPIConfig) (*Store, error) {
	cfg.Options = cfg.withDefaults()
	cfg.Retry = cmp.Or(cfg.Retry, 5*time.Second)
	cfg.StartTimeout = cmp.Or(cfg.StartTimeout, 30*time.Second)
	if cfg.TrustDomain.IsZero() {
		return nil, errors.New("the SPIFFE trust domain is not set")
	}
	w := &workloadAPI{cfg: cfg}
	ctx, cancel := context.WithTimeout(ctx, cfg.StartTimeout)
	defer cancel()
	first, err := w.first(ctx)
	if err != nil {
		return nil, fmt.Errorf("the SPIFFE Workload API at %s returned no identity for the broker: %w; is the agent running, and the broker registered as a workload?", cfg.Socket, err)
	}
	w.store = newStore(cfg.Options, first)
	w.store.watch = w.watch
	return w.store, nil
}

// first tries until it obtains a valid snapshot or ctx ends. In the latter case it
// returns the last error.
func (w *workloadAPI) first(ctx context.Context) (*snapshot, error) {
	last := context.DeadlineExceeded
	end, _ := ctx.Deadline() // gRPC may report it before ctx is done
	for {
		got, err := workloadapi.FetchX509Context(ctx, w.options()...)
		var first *snapshot
		if err == nil {
			first, err = w.snapshot(got)
		}
		if err == nil {
			return first, nil
		}
		if ctx.Err() == nil && time.Now().Before(end) { // otherwise err only reports the deadline
			last = err
		}
		select {
		case <-ctx.Done():
			return nil, last
		case <-time.After(w.cfg.Retry / 5):
		}
	}
}

// watch watches the Workload API. go-spiffe retries after most errors but returns after
// some; watch then starts it again.
func (w *workloadAPI) watch(ctx context.Context) {
	for ctx.Err() == nil {
		err := workloadapi.WatchX509Context(ctx, watcher{w, ctx}, w.options()...)
		if ctx.Err() != nil {
			return
		}
		w.failed(err)
		select {
		case <-ctx.Done():
		case <-time.After(w.cfg.Retry):
		}
	}
}

func (w *workloadAPI) options() []workloadapi.ClientOption {
	return []workloadapi.ClientOption{
		workloadapi.WithAddr(w.cfg.Socket),
		workloadapi.WithLogger(debugLogger{w.cfg.Logger}),
		workloadapi.WithBackoffStrategy(constantBackoff(w.cfg.Retry)),
	}
}

// snapshot converts an update of the Workload API, and checks that it is complete.
func (w *workloadAPI) snapshot(got *workloadapi.X509Context) (*snapshot, error) {
	own := w.pick(got.SVIDs)
	if own == nil {
		return nil, fmt.Errorf("it offers no identity in the trust domain %q", w.cfg.TrustDomain)
	}
	leaf := own.Certificates[0]
	if err := checkValidity(leaf, w.cfg.Now()); err != nil {
		return nil, fmt.Errorf("the identity %s: %w", own.ID, err)
	}
	bundle, err := got.Bundles.GetX509BundleForTrustDomain(w.cfg.TrustDomain)
	if err != nil || bundle.Empty() {
		return nil, fmt.Errorf("it offers no authorities of the trust domain %q", w.cfg.TrustDomain)
	}
	cert := &tls.Certificate{PrivateKey: own.PrivateKey, Leaf: leaf}
	for _, c := range own.Certificates {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	return newSnapshot(cert, bundle.X509Authorities(), nil, leaf.NotAfter), nil
}

// pick returns the first identity in the trust domain.
func (w *workloadAPI) pick(svids []*x509svid.SVID) *x509svid.SVID {
	for _, svid := range svids {
		if svid.ID.MemberOf(w.cfg.TrustDomain) {
			return svid
		}
	}
	return nil
}

// failed records that the Workload API returned an error or an update that cannot be
// used.
func (w *workloadAPI) failed(err error) {
	s := w.store
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures++
	s.faults[w.cfg.Socket] = fmt.Sprintf("the SPIFFE Workload API at %s: %v", w.cfg.Socket, err)
	s.tell()
}

// watcher is a workloadAPI during one watch.
type watcher struct {
	*workloadAPI
	ctx context.Context // the context of the watch
}

// OnX509ContextUpdate implements workloadapi.X509ContextWatcher.
func (w watcher) OnX509ContextUpdate(got *workloadapi.X509Context) {
	next, err := w.snapshot(got)
	if err != nil {
		w.failed(err)
		return
	}
	s := w.store
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.faults, w.cfg.Socket)
	s.replace(next)
	s.tell()
}

// OnX509ContextWatchError implements workloadapi.X509ContextWatcher.
func (w watcher) OnX509ContextWatchError(err error) {
	if w.ctx.Err() == nil {
		w.failed(err)
	}
}

// constantBackoff waits the same time after each failure.
type constantBackoff time.Duration

func (b constantBackoff) NewBackoff() workloadapi.Backoff { return b }
func (b constantBackoff) Next() time.Duration             { return time.Duration(b) }
func (constantBackoff) Reset()                            {}

// debugLogger writes go-spiffe's log lines at level debug. Errors that concern an
// operator are reported as problems.
type debugLogger struct{ log *slog.Logger }

func (l debugLogger) line(format string, args []any) {
	l.log.Debug("SPIFFE Workload API", "text", fmt.Sprintf(format, args...))
}
func (l debugLogger) Debugf(format string, args ...any) { l.line(format, args) }
func (l debugLogger) Infof(format string, args ...any)  { l.line(format, args) }
func (l debugLogger) Warnf(format string, args ...any)  { l.line(format, args) }
func (l debugLogger) Errorf(format string, args ...any) { l.line(format, args) }
