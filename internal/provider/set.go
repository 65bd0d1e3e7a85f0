package provider

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// SetConfig is the configuration of a Set. Only Openers is required.
type SetConfig struct {
	// Openers has an Opener for every supported kind of store.
	Openers map[secret.Kind]Opener
	// Observe, if not nil, is called after every read of a store, with the context of the
	// Fetch, the error (nil or a *secret.Error) and the duration. It is not called for a
	// Fetch that ends before it reaches the store.
	Observe func(ctx context.Context, kind secret.Kind, err error, took time.Duration)
	// MaxConcurrentReads bounds the concurrent reads of one store through one integration,
	// unless the integration sets its own bound. Zero means 72.
	MaxConcurrentReads int
	// MaxWaitingReads bounds the reads that wait beyond those; zero means 4000. Beyond the
	// bound, a new read displaces the last read of the caller with the most reads, if its
	// own caller has fewer. Otherwise it fails at once.
	MaxWaitingReads int
	// Keeps, if not nil, selects the integrations whose credential is lost permanently
	// unless it is renewed. Keep opens their Providers, which are Keepers.
	Keeps func(in *integration.Integration) bool
	// Reserve, if not nil, is called for every read when its turn has come, to reserve its
	// memory on behalf of the caller. It may wait until ctx ends. The Set calls release at
	// the end of the read.
	Reserve func(ctx context.Context, caller string) (release func(), err error)
	// Logger receives the state changes of circuit breakers. Nil discards them.
	Logger *slog.Logger
}

// Set manages one open Provider for each integration that is read from, and isolates
// stores from each other: the reads of one store do not delay those of another. It is safe
// for concurrent use.
type Set struct {
	cfg SetConfig

	// versionKey computes the versions of secrets whose store has none; nil without a key.
	versionKey *VersionKey

	opening context.Context // context of all openings; canceled by Close
	cancel  context.CancelFunc
	opened  sync.WaitGroup // the running openings

	mu      sync.Mutex
	closed  bool
	states  map[string]*state // by integration id
	counts  map[secret.Kind]*counters
	removed removals
}

// closeTimeout bounds how long Close waits for running openings: reading a file from an
// unreachable file server cannot be canceled.
const closeTimeout = 5 * time.Second

// NewSet returns an empty Set. The caller must close it.
func NewSet(cfg SetConfig) *Set {
	if cfg.Observe == nil {
		cfg.Observe = func(context.Context, secret.Kind, error, time.Duration) {}
	}
	if cfg.MaxConcurrentReads <= 0 {
		cfg.MaxConcurrentReads = 72
	}
	if cfg.MaxWaitingReads <= 0 {
		cfg.MaxWaitingReads = 4000
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Set{cfg: cfg, states: make(map[string]*state), counts: make(map[secret.Kind]*counters)}
	s.opening, s.cancel = context.WithCancel(context.Background())
	return s
}

// SetVersionKey makes the Set compute the versions of secrets whose store has none. It must
// be called before the first Fetch.
func (s *Set) SetVersionKey(k *VersionKey) { s.versionKey = k }

// Fetch reads ref through the Provider of this revision of the integration, and opens the
// Provider if necessary. The error is a *secret.Error or the Provider's.
//
// A revision that is no longer current, because it was superseded or the integration was
// removed while the call was in progress, is still read. Its Provider is closed after its
// last Fetch.
//
// Fetches of one store wait for their turn until ctx ends, and callers take turns (see
// WithCallers). A Fetch whose turn would come after ctx's deadline fails at once with a
// RetryAfter: with ReasonStoreThrottled if the store limits the rate, with
// ReasonOverloaded if the broker does. A Fetch of a store whose circuit breaker is open
// fails at once with ReasonStoreUnavailable.
func (s *Set) Fetch(ctx context.Context, in *integration.Integration, ref secret.Ref) (*secret.Secret, error) {
	var sec *secret.Secret
	err := s.do(ctx, in, ref.Store, func(p Provider) (err error) {
		start := time.Now()
		sec, err = p.Fetch(ctx, ref)
		s.cfg.Observe(ctx, in.Kind, err, time.Since(start))
		return err
	})
	if err != nil {
		return nil, err
	}
	return s.versionKey.apply(in, ref, sec), nil
}

// Peek asks which version of a secret is current, if the Provider is a Peeker. It waits for
// its turn like a Fetch.
func (s *Set) Peek(ctx context.Context, in *integration.Integration, ref secret.Ref) (state string, err error) {
	err = s.do(ctx, in, ref.Store, func(p Provider) (err error) {
		peeker, ok := p.(Peeker)
		if !ok {
			return secret.Errorf(secret.ReasonInternal, "the kind of store has no other way than to read a secret").
				WithCause(fmt.Errorf("%w: %w", errInconclusive, ErrCannotPeek))
		}
		state, err = peeker.Peek(ctx, ref)
		return err
	})
	return state, err
}

// do calls use with the Provider of an integration when its turn at the store comes.
func (s *Set) do(ctx context.Context, in *integration.Integration, store string, use func(Provider) error) error {
	callers := callersOf(ctx)
	st, lim, err := s.enter(in, store, callers.charged)
	if err != nil {
		return err
	}
	defer s.leave(in.ID, st, lim, callers.charged)
	h, err := s.acquire(st, in)
	if err != nil {
		return err
	}
	defer s.release(in.ID, st, h)
	p, err := h.wait(ctx)
	if err != nil {
		return err
	}
	return lim.do(ctx, callers, func() error {
		release, err := s.reserve(ctx, callers.charged)
		if err != nil {
			return err
		}
		defer release()
		return use(p)
	})
}

// reserve reserves the memory of a read.
func (s *Set) reserve(ctx context.Context, caller string) (release func(), err error) {
	if s.cfg.Reserve == nil {
		return func() {}, nil
	}
	release, err = s.cfg.Reserve(ctx, caller)
	if err != nil {
		return nil, secret.Errorf(secret.ReasonOverloaded, "the broker has no memory for another read of a store; try again later, or ask another replica").
			WithCause(fmt.Errorf("%w: %w", errInconclusive, err))
	}
	return release, nil
}

// Supersede makes revision the current one of a new or changed integration, and closes the
// Providers of other revisions when they are idle. Before its first call for an id, the
// revision of the first Fetch counts as current.
func (s *Set) Supersede(id, revision string) {
	s.mu.Lock()
	var idle []Provider
	if !s.closed {
		s.removed.forget(id)
		st := s.state(id, revision)
		st.current, st.gone = revision, false
		st.forgetStores(time.Now())
		idle = s.retire(id, st)
	}
	s.mu.Unlock()
	closeAll(idle)
}

// Keep starts renewing an integration's credential if SetConfig.Keeps selects the
// integration, until another revision supersedes this one or the integration is removed.
// It does not block. The owner of the Set calls it for every integration at start, and
// together with Supersede.
func (s *Set) Keep(in *integration.Integration) {
	if s.cfg.Keeps == nil || !s.cfg.Keeps(in) {
		return
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	st := s.state(in.ID, in.ReadRevision)
	st.kind = in.Kind
	s.mu.Unlock()
	h, err := s.acquire(st, in)
	if err != nil {
		return // closed, or an unsupported kind, which a Fetch reports
	}
	s.mu.Lock()
	closed := s.closed
	if !closed {
		s.opened.Go(func() { s.keep(in.ID, st, h) })
	}
	s.mu.Unlock()
	if closed {
		s.release(in.ID, st, h)
	}
}

// keep starts renewing the credential of a handle's Provider when the handle is open.
func (s *Set) keep(id string, st *state, h *handle) {
	defer s.release(id, st, h)
	p, err := h.wait(s.opening)
	if err != nil {
		s.cfg.Logger.Warn("a credential cannot be renewed until it is first used", "integration_id", id, "error", err)
		return
	}
	if k, ok := p.(Keeper); ok {
		k.Keep()
	}
}

// Remove removes the integration, and closes its Providers when they are idle.
func (s *Set) Remove(id string) {
	s.mu.Lock()
	var idle []Provider
	if !s.closed {
		s.removed.add(id)
		if st := s.states[id]; st != nil {
			st.gone = true
			idle = s.retire(id, st)
		}
	}
	s.mu.Unlock()
	closeAll(idle)
}

// Close closes every Provider. No Fetch may be running. If an opening that no Fetch waits
// for is still running after a few seconds, Close returns an error.
func (s *Set) Close() error {
	s.mu.Lock()
	s.closed = true
	var idle []Provider
	for id, st := range s.states {
		idle = append(idle, s.retire(id, st)...)
	}
	s.mu.Unlock()
	s.cancel()
	var errs []error
	for _, p := range idle {
		errs = append(errs, p.Close())
	}
	ended := make(chan struct{})
	go func() { // ends with the last opening
		s.opened.Wait()
		close(ended)
	}()
	timeout := time.NewTimer(closeTimeout)
	defer timeout.Stop()
	select {
	case <-ended:
	case <-timeout.C:
		errs = append(errs, errors.New("provider: a credential file is still being opened"))
	}
	return errors.Join(errs...)
}

// enter counts one Fetch of an integration's store, or refuses it if there are too many.
func (s *Set) enter(in *integration.Integration, store, caller string) (*state, *limiter, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, errClosed
	}
	st := s.state(in.ID, in.ReadRevision)
	st.kind = in.Kind
	store = in.CanonicalStore(store)
	lim := st.limiters[store]
	if lim == nil {
		lim = newLimiter(s.cfg.Logger.With("integration_id", in.ID, "store", store), s.counters(in.Kind), time.Now())
		st.limiters[store] = lim
	}
	lim.configure(in.Reads, s.cfg.MaxConcurrentReads)
	if lim.fetches >= lim.limit(false)+s.cfg.MaxWaitingReads && !lim.makeRoom(caller) {
		return nil, nil, lim.crowded()
	}
	st.fetches++
	lim.fetches++
	lim.byCaller[caller]++
	return st, lim, nil
}

// makeRoom makes the caller with the most Fetches give up one, unless that caller is the
// one that asks or has no more Fetches than it. It reports whether there is room. Set.mu
// is held.
func (lim *limiter) makeRoom(caller string) bool {
	greedy, most := "", lim.byCaller[caller]+1
	for c, n := range lim.byCaller {
		if n > most {
			greedy, most = c, n
		}
	}
	return most > lim.byCaller[caller]+1 && lim.displace(greedy)
}

// leave reverts enter.
func (s *Set) leave(id string, st *state, lim *limiter, caller string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st.fetches--
	lim.fetches--
	if lim.byCaller[caller]--; lim.byCaller[caller] == 0 {
		delete(lim.byCaller, caller)
	}
	s.drop(id, st)
}

// state returns the state of an integration. If there is none, it creates one with this
// revision as the current one. s.mu is held.
func (s *Set) state(id, revision string) *state {
	st := s.states[id]
	if st == nil {
		st = &state{
			current:  revision,
			gone:     s.removed.has(id),
			handles:  make(map[string]*handle),
			limiters: make(map[string]*limiter),
		}
		s.states[id] = st
	}
	return st
}

// drop deletes the state of a removed integration that is no longer in use. s.mu is held.
func (s *Set) drop(id string, st *state) {
	// A failed opening may be the last user, after a new state has been created under the
	// same id.
	if s.states[id] == st && st.gone && st.fetches == 0 && len(st.handles) == 0 {
		delete(s.states, id)
	}
}

var errClosed = secret.Errorf(secret.ReasonStoreUnavailable, "the broker is shutting down; try another replica")
