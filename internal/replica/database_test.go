package replica

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"testing"
	"time"
)

// database is a Table in memory, with the rules of the one in PostgreSQL.
type database struct {
	mu      sync.Mutex
	clock   time.Duration // added to the time
	seq     int64
	pruned  int64
	rows    map[ID]*stored
	leases  map[string]*lease
	down    error
	writes  int
	slow    time.Duration
	notices []chan struct{}
	looks   int // at the leases
	writing int // calls of WriteSightings
	most    int // of them at the same time
}

type stored struct {
	Row
	readAt, forcedAt, freshAt, writtenAt time.Duration
}

type lease struct {
	Lease
	seen, expires, serves time.Duration
}

func newDatabase() *database {
	return &database{rows: make(map[ID]*stored), leases: make(map[string]*lease)}
}

var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func (d *database) now() time.Duration { return time.Since(epoch) + d.clock }

// use waits as long as the database takes.
func (d *database) use(ctx context.Context) error {
	d.mu.Lock()
	slow := d.slow
	d.mu.Unlock()
	if slow > 0 && !sleep(ctx, slow) {
		return ctx.Err()
	}
	d.mu.Lock()
	if d.down != nil {
		defer d.mu.Unlock()
		return d.down
	}
	return nil
}

// written returns the version in the row of a secret.
func (d *database) written(k Key) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rows[k.id("")].Seen
}

// counts returns the numbers of writes and of leases.
func (d *database) counts() (writes, leases int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.writes, len(d.leases)
}

// connection is a replica's use of a database. Without notices it polls.
type connection struct {
	*database
	notices chan struct{}
}

func (c connection) SightingNotices() <-chan struct{} { return c.notices }

func (d *database) Changes(ctx context.Context, since int64) (Changes, error) {
	if err := d.use(ctx); err != nil {
		return Changes{}, err
	}
	defer d.mu.Unlock()
	now := d.now()
	c := Changes{Seq: d.seq, Pruned: d.pruned, Now: now}
	for _, s := range d.rows {
		if s.Seq > since {
			r := s.Row
			r.Age, r.ForcedAge, r.FreshAge, r.Written = now-s.readAt, now-s.forcedAt, now-s.freshAt, now-s.writtenAt
			r.ForcedMark = int64(s.forcedAt)
			c.Rows = append(c.Rows, r)
		}
	}
	slices.SortFunc(c.Rows, func(a, b Row) int { return cmp.Compare(a.Seq, b.Seq) })
	return c, nil
}

func (d *database) WriteSightings(ctx context.Context, by string, all []Sighting) (int64, error) {
	d.mu.Lock()
	d.writing++
	d.most = max(d.most, d.writing)
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		d.writing--
		d.mu.Unlock()
	}()
	if err := d.use(ctx); err != nil {
		return 0, err
	}
	defer d.mu.Unlock()
	d.writes++
	now := d.now()
	d.seq = max(d.seq+1, int64(now))
	for _, v := range all {
		n := &stored{Row: Row{Sighting: v, Seq: d.seq, By: by}, readAt: now - v.Age, writtenAt: now}
		if v.Forced {
			n.ForcedBy, n.forcedAt = by, now-v.ForcedAge
		}
		if v.Fresh {
			n.FreshBy, n.freshAt = by, now-v.FreshAge
		}
		o := d.rows[v.ID]
		if o == nil {
			d.rows[v.ID] = n
			continue
		}
		later := v.Seen != "" && !v.Confirmation && (n.readAt >= o.readAt || o.readAt > now)
		forced := v.Forced && (n.forcedAt > o.forcedAt || o.forcedAt > now)
		other := later && v.Seen != o.Seen
		fresh := v.Fresh && v.Seen == o.Seen && (n.freshAt > o.freshAt || o.freshAt > now)
		if !v.Forced && !fresh && !other {
			continue
		}
		if fresh || other {
			o.Fresh, o.freshAt, o.FreshBy = v.Fresh, n.freshAt, n.FreshBy
		}
		o.Seq, o.writtenAt = d.seq, now
		if later {
			o.Seen, o.readAt, o.By = v.Seen, n.readAt, by
		}
		if forced {
			o.Forced, o.forcedAt, o.ForcedBy = true, n.forcedAt, by
		}
	}
	for _, c := range d.notices {
		poked(c)
	}
	return d.seq, nil
}

func (d *database) PruneSightings(ctx context.Context, keep time.Duration, most int) error {
	if err := d.use(ctx); err != nil {
		return err
	}
	defer d.mu.Unlock()
	for id, s := range d.rows {
		if s.writtenAt < d.now()-keep || len(d.rows) > most {
			d.pruned = max(d.pruned, s.Seq)
			delete(d.rows, id)
		}
	}
	return nil
}

func (d *database) RenewLease(ctx context.Context, l Lease, expires, serves time.Duration) error {
	if err := d.use(ctx); err != nil {
		return err
	}
	defer d.mu.Unlock()
	now := d.now()
	d.leases[l.ID] = &lease{Lease: l, seen: now, expires: now + expires, serves: now + serves}
	for id, other := range d.leases {
		if id != l.ID && other.Name == l.Name && other.expires < now {
			delete(d.leases, id)
		}
	}
	return nil
}

func (d *database) Leases(ctx context.Context) (all []Lease, err error) {
	if err := d.use(ctx); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	d.looks++
	for _, l := range d.leases {
		l.Live, l.Serves, l.SeenAt = l.expires > d.now(), l.serves > d.now(), epoch.Add(l.seen)
		all = append(all, l.Lease)
	}
	return all, nil
}

func (d *database) ReleaseLease(ctx context.Context, id string) error {
	if err := d.use(ctx); err != nil {
		return err
	}
	defer d.mu.Unlock()
	delete(d.leases, id)
	return nil
}

// broker is a replica with a cache of one entry per secret.
type broker struct {
	*Tracker
	mu      sync.Mutex
	cached  map[Key]read
	hints   int
	dropped int
	stop    func()
}

type read struct {
	version string
	at      time.Time
}

func (b *broker) has(k Key) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cached[k].version
}

// read is a read of the store that takes a time; ok is false if it must not be kept.
func (b *broker) read(k Key, version string, takes time.Duration) (ok bool) {
	began := time.Now()
	time.Sleep(takes)
	b.Saw(k, "", version)
	if b.Superseded(k, version, began) {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cached[k] = read{version, began}
	return true
}

func (d *database) join(t *testing.T, name string, notified bool) *broker {
	t.Helper()
	b := &broker{cached: make(map[Key]read)}
	c := connection{d, make(chan struct{}, 1)}
	if notified {
		d.mu.Lock()
		d.notices = append(d.notices, c.notices)
		d.mu.Unlock()
	}
	b.Tracker = New(Config{
		Table: c, Name: name, ServesFor: 15 * time.Minute,
		Drop: func(k Key, old func(string, time.Time) bool) bool {
			b.mu.Lock()
			defer b.mu.Unlock()
			e, ok := b.cached[k]
			if !ok || !old(e.version, e.at) {
				return false
			}
			delete(b.cached, k)
			b.dropped++
			return true
		},
		DropAll: func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			clear(b.cached)
		},
		Hint: func(Key, string) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.hints++
		},
	})
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = b.Run(ctx) })
	b.stop = func() { cancel(); running.Wait() }
	t.Cleanup(b.stop)
	return b
}
