package events

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/cache"
	"github.com/secretbroker/secretbroker/internal/events/eventstest"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const vault = "https://my-vault.vault.azure.net"

// settings are those of an integration.
type settings struct {
	stores []string
	source string
}

func (s *settings) StoreNames() []string        { return s.stores }
func (s *settings) List() []integration.Setting { return nil }
func (s *settings) Facts() integration.Facts    { return integration.Facts{} }
func (s *settings) EventSource() string         { return s.source }

// world is a broker without a Receiver: integrations, what is held, and the stores.
type world struct {
	mu          sync.Mutex
	in          map[string]*integration.Integration
	unavailable bool
	held        map[string]string // by integration and name: the version that is known
	content     map[string]string // by name: the version in the store
	failing     map[string]*secret.Error
	delay       map[string]time.Duration // by integration
	reads       []string                 // integration and reference, with the time of the start
	began       time.Time
	active      int
	most        int
	queues      map[string]*eventstest.Queue // by EventSource
	receiver    *Receiver
}

func (w *world) Get(id string) (*integration.Integration, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch in := w.in[id]; {
	case w.unavailable:
		return nil, registry.ErrUnavailable
	case in == nil:
		return nil, registry.ErrNotFound
	default:
		return in, nil
	}
}

func (w *world) List() []*integration.Integration {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []*integration.Integration
	for _, in := range w.in {
		all = append(all, in)
	}
	slices.SortFunc(all, func(a, b *integration.Integration) int { return compare(a.ID, b.ID) })
	return all
}

func compare(a, b string) int {
	if a < b {
		return -1
	}
	return b2i(a > b)
}

// Held implements Holder: what is held is held without a version in its reference.
func (w *world) Held(in *integration.Integration, e *provider.Event) []Held {
	w.mu.Lock()
	defer w.mu.Unlock()
	if version, ok := w.held[in.ID+" "+e.Name]; ok {
		return []Held{{secret.Ref{Kind: in.Kind, Store: e.Store, Name: e.Name}, version}}
	}
	return nil
}

func (w *world) Read(ctx context.Context, caller authz.Principal, id string, ref secret.Ref, now bool) (cache.Load, bool) {
	w.mu.Lock()
	if caller != "" || !now {
		panic("the read is charged to a caller, or may be answered from the cache")
	}
	w.reads = append(w.reads, fmt.Sprintf("%v %s %s", time.Since(w.began).Round(100*time.Millisecond), id, ref.Name))
	w.active++
	w.most = max(w.most, w.active)
	delay := w.delay[id]
	w.mu.Unlock()
	select {
	case <-time.After(delay):
	case <-ctx.Done():
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.active--
	if ctx.Err() != nil {
		return cache.Load{Err: secret.Errorf(secret.ReasonStoreUnavailable, "the store did not answer in time")}, true
	}
	if err := w.failing[ref.Name]; err != nil {
		return cache.Load{Err: err}, true
	}
	w.held[id+" "+ref.Name] = w.content[ref.Name]
	return cache.Load{Version: w.content[ref.Name]}, true
}

// add adds or replaces an integration with stores, whose source is a queue of this name.
func (w *world) add(id, revision, source string, stores ...string) *eventstest.Queue {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.in[id] = &integration.Integration{ID: id, ReadRevision: revision, Kind: secret.KindAzureKeyVault, Settings: &settings{stores, source}}
	if w.queues[source] == nil && source != "" {
		w.queues[source] = eventstest.NewQueue()
	}
	w.receiver.IntegrationsChanged() // as a registry, with its lock
	return w.queues[source]
}

// central makes the integration "file" the one of a central source.
func (w *world) central(covers func(string) bool) {
	w.mu.Lock()
	in := w.in["file"]
	delete(w.in, "file")
	w.mu.Unlock()
	w.receiver.SetCentral([]Central{{Integration: in, For: covers}})
}

func (w *world) do(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// hold makes secrets of an integration held with a version, which the store has as well.
func (w *world) hold(id, version string, names ...string) {
	w.do(func() {
		for _, name := range names {
			w.held[id+" "+name], w.content[name] = version, version
		}
	})
}

// rotate gives a secret a version in the store.
func (w *world) rotate(name, version string) { w.do(func() { w.content[name] = version }) }

// taken returns the reads since the last call.
func (w *world) taken() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	reads := w.reads
	w.reads, w.began = nil, time.Now()
	return reads
}

// expect waits and compares the reads since the last call.
func (w *world) expect(t *testing.T, d time.Duration, want ...string) {
	t.Helper()
	time.Sleep(d)
	synctest.Wait()
	got := w.taken()
	slices.Sort(got) // those of one moment have no order
	if slices.Sort(want); !slices.Equal(got, want) {
		t.Errorf("reads %q, want %q", got, want)
	}
}

// counts returns the non-zero counts of a source.
func (w *world) counts(id string) string {
	text := ""
	for _, s := range w.receiver.Status() {
		if s.IntegrationID != id {
			continue
		}
		for _, o := range Outcomes {
			if n := s.Counts[o]; n > 0 {
				text += fmt.Sprintf("%s %d ", o, n)
			}
		}
	}
	return text
}

// inMemory returns the number of secrets that the Receiver has in memory.
func (w *world) inMemory() int {
	w.receiver.reads.mu.Lock()
	defer w.receiver.reads.mu.Unlock()
	return len(w.receiver.reads.secrets)
}

func (w *world) status(t *testing.T, id string) Status {
	t.Helper()
	for _, s := range w.receiver.Status() {
		if s.IntegrationID == id {
			return s
		}
	}
	t.Fatalf("no source of %s", id)
	return Status{}
}

func event(name, version string) provider.Event {
	return provider.Event{Store: vault, Name: name, Version: version, Type: "changed"}
}

// simulated runs a test with a Receiver in a bubble.
func simulated(t *testing.T, c Config, test func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{
			in: map[string]*integration.Integration{}, held: map[string]string{}, content: map[string]string{}, failing: map[string]*secret.Error{},
			delay: map[string]time.Duration{}, queues: map[string]*eventstest.Queue{}, began: time.Now(),
		}
		c.Openers = map[secret.Kind]provider.EventOpener{secret.KindAzureKeyVault: func(ctx context.Context, in *integration.Integration) (provider.EventSource, error) {
			w.mu.Lock()
			q := w.queues[in.EventSource()]
			w.mu.Unlock()
			return q.Opener()(ctx, in)
		}}
		w.receiver = New(c)
		w.receiver.Use(w, w, w)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = w.receiver.Run(ctx) })
		test(t, w)
		cancel()
		running.Wait()
	})
}
