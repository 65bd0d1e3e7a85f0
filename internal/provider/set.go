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

// SetConfig is what a Set needs to know. Only Openers is required.
type SetConfig struct {
	// Openers are the kinds of integrations that are supported.
	Openers map[secret.Kind]Opener
	// Observe, if not nil, is told of every read of a store: what came of it (nil
	// or a *secret.Error) and how long it took, with the context of the Fetch. A
	// Fetch that ends before it reaches the store is none.
	Observe func(ctx context.Context, kind secret.Kind, err error, took time.Duration)
	// MaxConcurrentReads bounds the reads of one store through one integration
	// that run at a time, unless the integration has a bound of its own; zero
	// means 72.
	MaxConcurrentReads int
	// MaxWaitingReads bounds those that wait for their turn beyond that; zero means
	// 4000. A further one takes the place of the last one of the caller with the most,
	// if its own caller has fewer, else it fails at once.
	MaxWaitingReads int
	// Keeps, if not nil, picks the integrations whose credential is lost for good when
	// it is not renewed: their Providers are opened by Keep, and are Keepers.
	Keeps func(in *integration.Integration) bool
	// Reserve, if not nil, is asked for the memory of each read when its turn has
	// come, in the name of its caller, and may wait until ctx ends. What it returns is
	// called when the read is over.
	Reserve func(ctx context.Context, caller string) (release func(), err error)
	// Logger receives the state changes of circuit breakers. Nil discards them.
	Logger *slog.Logger
}

// Set holds one open Provider for each integration that has been read from, and
// sees to it that no store's reads are in the way of another's. It is safe for
// concurrent use.
type Set struct {
	cfg SetConfig

	opening context.Context // of all openings; done when the set closes
	cancel  context.CancelFunc
	opened  sync.WaitGroup // the openings under way

	mu      sync.Mutex
	closed  bool
	states  map[string]*state // by integration id
	counts  map[secret.Kind]*counters
	removed removals
}

// closeTimeout bounds how long Close waits for openings under way: a file on a
// server that has gone cannot be given up.
const closeTimeout = 5 * time.Second

// NewSet makes an empty Set. It must be closed.
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

// Fetch reads ref through the Provider of this revision of the integration,
// opening it if need be. The error is a *secret.Error or the Provider's.
//
// A revision that is not the integration's current one, because it has been
// superseded or the integration removed while the call was on its way, is still
// read; what was opened for it is closed with its last Fetch.
//
// Fetches of one store wait for their turn, as long as ctx allows; callers take
// turns, see WithCallers and limiter. One
// whose turn would come too late for ctx's deadline fails at once, with
// ReasonStoreThrottled if it is the store that asks for patience and
// ReasonOverloaded if it is the broker, and with RetryAfter. So does, with
// ReasonStoreUnavailable, a Fetch of a store that does not answer.
func (s *Set) Fetch(ctx context.Context, in *integration.Integration, ref secret.Ref) (*secret.Secret, error) {
	callers := callersOf(ctx)
	st, lim, err := s.enter(in, ref.Store, callers.charged)
	if err != nil {
		return nil, err
	}
	defer s.leave(in.ID, st, lim, callers.charged)
	h, err := s.acquire(st, in)
	if err != nil {
		return nil, err
	}
	defer s.release(in.ID, st, h)
	p, err := h.wait(ctx)
	if err != nil {
		return nil, err
	}
	var sec *secret.Secret
	err = lim.do(ctx, callers, func() (err error) {
		release, err := s.reserve(ctx, callers.charged)
		if err != nil {
			return err
		}
		defer release()
		start := time.Now()
		sec, err = p.Fetch(ctx, ref)
		s.cfg.Observe(ctx, in.Kind, err, time.Since(start))
		return err
	})
	if err != nil {
		return nil, err
	}
	return sec, nil
}

// reserve takes the memory of a read.
func (s *Set) reserve(ctx context.Context, caller string) (release func(), err error) {
	if s.cfg.Reserve == nil {
		return func() {}, nil
	}
	release, err = s.cfg.Reserve(ctx, caller)
	if err != nil {
		return nil, secret.Errorf(secret.ReasonOverloaded, "the broker has no memory for another read of a store; wait, or ask another broker").
			WithCause(fmt.Errorf("%w: %w", errNoVerdict, err))
	}
	return release, nil
}

// Supersede makes revision the current one of an integration that is new or has
// changed, and closes the Providers of others once they are idle. Until it is
// first called for an id, the revision that is first fetched through is taken to
// be current.
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

// Keep has an integration's credential kept alive, if it is one of SetConfig.Keeps,
// from now on until another revision supersedes this one or it is removed. It does not
// wait. It is called for what there is at first, and with Supersede.
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
		return // it is closed, or there is no such kind, which a Fetch says
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

// keep begins to keep the credential of a handle's Provider, once that is open.
func (s *Set) keep(id string, st *state, h *handle) {
	defer s.release(id, st, h)
	p, err := h.wait(s.opening)
	if err != nil {
		s.cfg.Logger.Warn("a credential cannot be kept alive before it is first used", "integration", id, "error", err)
		return
	}
	if k, ok := p.(Keeper); ok {
		k.Keep()
	}
}

// Remove says that the integration no longer exists, and closes its Providers
// once they are idle.
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

// Close closes every Provider. The caller has seen to it that no Fetch is under
// way. Openings that no Fetch waits for may be; the error says if one has
// not ended within a few seconds.
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

// enter counts one Fetch of an integration's store, unless there are too many.
func (s *Set) enter(in *integration.Integration, store, caller string) (*state, *limiter, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, errClosed
	}
	st := s.state(in.ID, in.ReadRevision)
	st.kind = in.Kind
	lim := st.limiters[store]
	if lim == nil {
		lim = newLimiter(s.cfg.Logger.With("integration", in.ID, "store", store), s.counters(in.Kind), time.Now())
		st.limiters[store] = lim
	}
	lim.configure(in.Limits, s.cfg.MaxConcurrentReads)
	if lim.fetches >= lim.limit(false)+s.cfg.MaxWaitingReads && !lim.makeRoom(caller) {
		return nil, nil, lim.crowded()
	}
	st.fetches++
	lim.fetches++
	lim.byCaller[caller]++
	return st, lim, nil
}

// makeRoom makes the caller with the most Fetches give up one, unless that is the
// one who asks, or has no more than this one. It reports whether there is room.
// Set.mu is held.
func (lim *limiter) makeRoom(caller string) bool {
	greedy, most := "", lim.byCaller[caller]+1
	for c, n := range lim.byCaller {
		if n > most {
			greedy, most = c, n
		}
	}
	return most > lim.byCaller[caller]+1 && lim.displace(greedy)
}

// leave is the end of what enter began.
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

// state returns what is known of an integration, which Fetches of that
// revision have made known if nothing was. s.mu is held.
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

// drop forgets a removed integration that nothing is under way of. s.mu is held.
func (s *Set) drop(id string, st *state) {
	// A failed opening may be the last to let go, after another state was made.
	if s.states[id] == st && st.gone && st.fetches == 0 && len(st.handles) == 0 {
		delete(s.states, id)
	}
}

var errClosed = secret.Errorf(secret.ReasonStoreUnavailable, "the broker is shutting down; try another replica")
