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

// WorkloadAPIConfig says where the broker gets its identity. Socket and
// TrustDomain are required.
type WorkloadAPIConfig struct {
	// Socket is the address of the SPIFFE Workload API, such as
	// "unix:///run/spire/agent.sock".
	Socket string
	// TrustDomain is the broker's own, and the only one whose workloads it
	// believes: federated bundles are not used.
	TrustDomain spiffeid.TrustDomain
	// StartTimeout bounds the wait for the first identity: 30 s if zero.
	StartTimeout time.Duration
	// Retry is the wait after a failure: 5 s if zero, at the start a fifth of it.
	Retry time.Duration
	Options
}

// workloadAPI hears what the Workload API pushes.
type workloadAPI struct {
	cfg   WorkloadAPIConfig
	store *Store
}

// OpenWorkloadAPI waits for the broker's identity and the bundle of its trust
// domain. Run keeps them current. While the agent cannot be reached the last
// ones stay in force until the broker's own certificate expires; then nobody is
// let in, and whoever is connected is no longer good: without the agent nobody
// knows which authorities still hold.
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
		return nil, fmt.Errorf("the SPIFFE Workload API at %s gave the broker no identity: %w; is the agent running, and the broker registered as a workload?", cfg.Socket, err)
	}
	w.store = newStore(cfg.Options, first)
	w.store.watch = w.watch
	return w.store, nil
}

// first tries until it has something good or ctx ends, and returns the last
// error then.
func (w *workloadAPI) first(ctx context.Context) (*snapshot, error) {
	last := context.DeadlineExceeded
	end, _ := ctx.Deadline() // which gRPC may notice before ctx does
	for {
		got, err := workloadapi.FetchX509Context(ctx, w.options()...)
		var first *snapshot
		if err == nil {
			first, err = w.snapshot(got)
		}
		if err == nil {
			return first, nil
		}
		if ctx.Err() == nil && time.Now().Before(end) { // else it says nothing but that
			last = err
		}
		select {
		case <-ctx.Done():
			return nil, last
		case <-time.After(w.cfg.Retry / 5):
		}
	}
}

// watch follows the Workload API. go-spiffe tries again after most errors, but
// gives up for good after some; then it is started anew.
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

// snapshot checks what the Workload API said.
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

// failed notes that the Workload API says nothing, or nothing good.
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
	ctx context.Context // that the watch ends with
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

// debugLogger takes go-spiffe's own lines for debugging; what an operator should
// know is told as a problem.
type debugLogger struct{ log *slog.Logger }

func (l debugLogger) line(format string, args []any) {
	l.log.Debug("SPIFFE Workload API", "text", fmt.Sprintf(format, args...))
}
func (l debugLogger) Debugf(format string, args ...any) { l.line(format, args) }
func (l debugLogger) Infof(format string, args ...any)  { l.line(format, args) }
func (l debugLogger) Warnf(format string, args ...any)  { l.line(format, args) }
func (l debugLogger) Errorf(format string, args ...any) { l.line(format, args) }
