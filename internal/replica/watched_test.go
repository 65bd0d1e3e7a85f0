package replica

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/cache"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/watch"
)

const watchedTTL = 5 * time.Minute

// contents is a store with one secret that replicas watch.
type contents struct {
	mu      sync.Mutex
	version string
	takes   time.Duration
	reads   map[string]int // by replica
}

func (c *contents) set(version string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.version = version
}

// read reads the secret on behalf of a replica.
func (c *contents) read(replica string) (string, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reads[replica]++
	return c.version, c.takes
}

// since returns the number of reads since the last call.
func (c *contents) since() (sum int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.reads {
		sum += n
	}
	clear(c.reads)
	return sum
}

// watcher is a replica with a Hub. It is the Reader of its Hub.
type watcher struct {
	*broker
	hub   *watch.Hub
	name  string
	store *contents
	end   func()
	mu    sync.Mutex
	fails *secret.Error
	told  []string // versions
}

func (w *watcher) Decide(authz.Principal, string, secret.Ref) watch.Decision {
	return watch.Decision{ReadRevision: "1", Store: password.Store, Interval: watchedTTL}
}

func (w *watcher) Read(_ context.Context, _ authz.Principal, _ string, _ secret.Ref, _ bool) (cache.Load, bool) {
	began := time.Now()
	version, takes := w.store.read(w.name)
	w.mu.Lock()
	err := w.fails
	w.mu.Unlock()
	key := cache.Key{Integration: password.Integration, Revision: "1", Store: password.Store, Name: password.Name}
	if err != nil {
		return cache.Load{Key: key, ReadAt: began, Err: err}, true
	}
	w.read(password, version, takes)
	return cache.Load{Key: key, Version: version, ReadAt: began}, true
}

func (w *watcher) fail(err *secret.Error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fails = err
}

// last returns the version that the watchers were told last.
func (w *watcher) last() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.told) == 0 {
		return ""
	}
	return w.told[len(w.told)-1]
}

// watches starts a replica whose client watches the secret.
func (d *database) watches(t *testing.T, name string, store *contents) *watcher {
	w := &watcher{name: name, store: store}
	w.hub = watch.New(watch.Config{Share: func(k watch.Key, scheme, version string, readAt time.Time, interval time.Duration) watch.Turn {
		if w.ReadWatched(Key(k), scheme, version, readAt, interval) {
			return watch.Mine
		}
		return watch.Others
	}})
	w.hub.SetReader(w)
	w.broker = d.join(t, name, true)
	key := cache.Key{Integration: password.Integration, Store: password.Store, Name: password.Name}
	w.cfg.Hint = func(_ Key, version string) { w.hub.Seen(key, version) }
	w.cfg.Fresh = func(_ Key, version string, began time.Time) { w.hub.ReadElsewhere(key, version, began) }
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = w.hub.Run(ctx) })
	ref, err := secret.ParseRef(password.Store + "::" + password.Name)
	if err != nil {
		t.Fatal(err)
	}
	s, err := w.hub.Open("dns:worker.example.org", []watch.Item{{IntegrationID: password.Integration, Ref: ref}})
	if err != nil {
		t.Fatal(err)
	}
	running.Go(func() {
		for {
			notices, _, err := s.Next(ctx)
			if err != nil {
				return
			}
			w.mu.Lock()
			for _, n := range notices {
				w.told = append(w.told, n.Version)
			}
			w.mu.Unlock()
		}
	})
	w.end = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		s.Close()
		w.stop()
	})
	t.Cleanup(w.end)
	return w
}

func watching(t *testing.T, takes time.Duration, test func(t *testing.T, d *database, store *contents, a, b *watcher)) {
	synctest.Test(t, func(t *testing.T) {
		d, store := newDatabase(), &contents{version: "v1", takes: takes, reads: make(map[string]int)}
		a := d.watches(t, "a", store)
		time.Sleep(time.Minute)
		b := d.watches(t, "b", store)
		time.Sleep(time.Second)
		test(t, d, store, a, b)
	})
}

// readsIn expects that the number of reads in n times-to-live is about that of one replica.
func (c *contents) readsIn(t *testing.T, what string, n, replicas int) {
	t.Helper()
	c.since()
	time.Sleep(time.Duration(n) * watchedTTL)
	if got := c.since(); got < replicas*n || got > replicas*(n*10/9+2) {
		t.Errorf("%s: %d reads in %d times-to-live", what, got, n)
	}
}

// TestWatchedIsReadOnce: a secret that two replicas watch is read once per time-to-live, and
// by the other one if one of them ends, stops to watch, or cannot read.
func TestWatchedIsReadOnce(t *testing.T) {
	watching(t, 100*time.Millisecond, func(t *testing.T, d *database, store *contents, a, b *watcher) {
		store.readsIn(t, "two replicas", 20, 1)
		if n := a.hub.Stats().Postponed + b.hub.Stats().Postponed; n < 15 {
			t.Errorf("%d reads were postponed", n)
		}
		rows, _ := d.counts()
		store.readsIn(t, "two replicas", 20, 1)
		if now, _ := d.counts(); now-rows > 25 {
			t.Errorf("%d writes for 20 reads", now-rows)
		}

		// The one whose turn it is cannot read; its watchers are told nothing yet.
		b.fail(secret.Errorf(secret.ReasonStoreUnavailable, "no"))
		a.fail(secret.Errorf(secret.ReasonStoreUnavailable, "no"))
		time.Sleep(watchedTTL)
		b.fail(nil)
		time.Sleep(watchedTTL)
		store.set("v2")
		time.Sleep(watchedTTL + time.Second)
		if b.last() != "v2" || a.last() == "v2" {
			t.Errorf("a was told %q, b %q", a.last(), b.last())
		}
		a.fail(nil)
		time.Sleep(watchedTTL + time.Second)
		if a.last() != "v2" {
			t.Errorf("a was told %q", a.last())
		}
		store.readsIn(t, "after an outage", 20, 1)

		b.end()
		store.readsIn(t, "one replica", 20, 1)
		store.set("v3")
		time.Sleep(watchedTTL + time.Second)
		if a.last() != "v3" {
			t.Errorf("a was told %q", a.last())
		}
	})
}

// TestWatchedChanges: a change is noticed within the time-to-live and told by both, and reads
// of a Resolve take the place of those by the clock of all replicas.
func TestWatchedChanges(t *testing.T) {
	watching(t, 10*time.Millisecond, func(t *testing.T, d *database, store *contents, a, b *watcher) {
		for _, version := range []string{"v2", "v3", "v1", "v4"} {
			store.set(version)
			changed := time.Now()
			for a.last() != version || b.last() != version {
				time.Sleep(100 * time.Millisecond)
			}
			if d := time.Since(changed); d > watchedTTL+2*time.Second {
				t.Errorf("%s was noticed after %v", version, d)
			}
			time.Sleep(time.Minute)
		}
		store.readsIn(t, "after the changes", 10, 1)

		// Without the database, each replica reads for itself.
		d.mu.Lock()
		d.down = errors.New("down")
		d.mu.Unlock()
		time.Sleep(watchedTTL)
		store.readsIn(t, "without the database", 10, 2)
		d.mu.Lock()
		d.down = nil
		d.mu.Unlock()
		time.Sleep(2 * watchedTTL)
		if p := append(a.Stats().Problems, b.Stats().Problems...); len(p) > 0 {
			t.Errorf("%q", p)
		}
		store.readsIn(t, "with the database again", 10, 1)
	})
}

// TestConfirmationsAreNoSightings: that a version was read again neither makes replicas drop
// reads, nor repeats a refresh, nor replaces a later version.
func TestConfirmationsAreNoSightings(t *testing.T) {
	replicas(t, true, func(t *testing.T, d *database, a, b *broker) {
		began := time.Now()
		a.read(password, "v1", time.Millisecond)
		if c := a.Confirm(t.Context(), []Read{{Key: password, Version: "v1", Began: began, Ended: time.Now()}}); c.State != AllReplicas {
			t.Fatalf("%+v", c)
		}
		time.Sleep(time.Minute)
		again := func(r *broker, version string, began time.Time) bool {
			next := r.ReadWatched(password, "", version, began, watchedTTL)
			time.Sleep(2 * time.Second)
			return next
		}
		at := b.known(password)
		b.read(password, "v1", time.Millisecond)
		if !again(a, "v1", time.Now()) || again(b, "v1", time.Now()) {
			t.Error("the replica that reads again is not the one that is to read next")
		}
		if m := b.known(password); m.at != at.at || m.forced != at.forced || m.fresh == 0 || m.freshOwn {
			t.Errorf("the mirror has %+v after %+v", m, at)
		}
		if b.has(password) != "v1" || b.dropped != 0 || a.dropped != 0 {
			t.Errorf("b has %q, %d and %d drops", b.has(password), a.dropped, b.dropped)
		}
		if s := d.row(password); !s.Fresh || s.FreshBy != a.ID() || s.By != a.ID() {
			t.Errorf("the row is %+v", s)
		}

		// The row is delivered again with a later refresh of the same version by b.
		refreshed := time.Now()
		if c := b.Confirm(t.Context(), []Read{{Key: password, Version: "v1", Began: refreshed, Ended: time.Now()}}); c.State != AllReplicas {
			t.Fatalf("%+v", c)
		}
		time.Sleep(time.Second)
		if m := a.known(password); !m.own || m.forced <= at.forced {
			t.Errorf("the mirror of a has %+v", m)
		}
		if m := b.known(password); m.own || m.at != at.at {
			t.Errorf("the mirror of b has %+v after %+v", m, at)
		}
		a.checkRedelivery(t, d.row(password))

		// b sees another version while a confirms the one before.
		writes, _ := d.counts()
		time.Sleep(watchedTTL)
		before := time.Now()
		b.read(password, "v2", time.Millisecond)
		again(a, "v1", before)
		if got := d.written(password); got != "v2" || b.has(password) != "v2" {
			t.Errorf("the row has %q, b has %q", got, b.has(password))
		}
		if now, _ := d.counts(); now-writes > 2 {
			t.Errorf("%d writes", now-writes)
		}
		a.ReadWatched(password, SchemeNone, "v2", time.Now(), watchedTTL)
		a.ReadWatched(password, "", "", time.Now(), watchedTTL)
		if a.confirmations() != 0 {
			t.Errorf("%d confirmations of what cannot be shared", a.confirmations())
		}
		for i := range maxPending + 5 {
			a.ReadWatched(Key{Integration: "it", Name: string(rune('a' + i))}, "", "v", time.Now(), watchedTTL)
		}
		if a.confirmations() > maxPending {
			t.Errorf("%d confirmations wait", a.confirmations())
		}
	})
}

// checkRedelivery: a part of a row that was delivered before has no second effect.
func (b *broker) checkRedelivery(t *testing.T, row Row) {
	t.Helper()
	b.Tracker.mu.Lock()
	defer b.Tracker.mu.Unlock()
	take := func(r Row) (applied, bool) { return b.take(&r, time.Now(), time.Now()) }
	row.Forced, row.ForcedBy, row.ForcedMark, row.Fresh, row.FreshBy = true, "other", 1, true, "other"
	row.FreshAge = -time.Hour // from before the database's clock was set back
	if a, ok := take(row); !ok || !a.acknowledge || a.fresh {
		t.Errorf("a refresh: %+v, %v", a, ok)
	}
	if a, ok := take(row); !ok || !a.acknowledge {
		t.Errorf("the refresh again, for which another call may wait: %+v, %v", a, ok)
	}
	row.FreshAge, row.ForcedAge = 0, ackTime
	if a, ok := take(row); !ok || a.acknowledge || a.versions || !a.fresh {
		t.Errorf("a confirmation: %+v, %v", a, ok)
	}
	row.ForcedMark = 2
	if a, ok := take(row); !ok || !a.acknowledge || a.fresh {
		t.Errorf("another refresh: %+v, %v", a, ok)
	}
	if a, ok := take(row); ok {
		t.Errorf("nothing new: %+v", a)
	}
}

// known returns what the mirror has of a secret.
func (b *broker) known(k Key) seen {
	b.Tracker.mu.Lock()
	defer b.Tracker.mu.Unlock()
	return b.mirror[k.id("")]
}

// confirmations returns the number of confirmations that wait.
func (b *broker) confirmations() int {
	b.Tracker.mu.Lock()
	defer b.Tracker.mu.Unlock()
	return len(b.again)
}

// row returns the row of a secret.
func (d *database) row(k Key) Row {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rows[k.id("")].Row
}
