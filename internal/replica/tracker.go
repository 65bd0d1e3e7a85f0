package replica

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/secretbroker/secretbroker/internal/elapsed"
)

// Config configures a Tracker. Table, Drop, DropAll and ServesFor are required.
type Config struct {
	Table Table
	// Name is the place of this replica: its host and address.
	Name string
	// Scheme is the one of the versions that this replica computes; "" if it computes none.
	Scheme string
	// Drop removes what the cache has of a secret if old reports that its read, with this
	// version and this beginning, is superseded. It reports whether it removed something.
	Drop func(k Key, old func(version string, readAt time.Time) bool) bool
	// DropAll removes everything from the cache.
	DropAll func()
	// Hint, if not nil, is called if a secret may have another version than this one.
	Hint func(k Key, version string)
	// ServesFor is how long this replica answers calls without a renewal of its lease; see
	// Tracker.Detached.
	ServesFor time.Duration
	// Fresh, if not nil, is called if another replica has read a secret that it watches. The
	// read began at a time, and saw a version that other replicas have seen before.
	Fresh func(k Key, version string, began time.Time)
	// Lag, if not nil, is called for each row of another replica with the time since the
	// end of its read.
	Lag func(time.Duration)
	// Logger logs outages. Nil discards them.
	Logger *slog.Logger
}

const (
	// pollInterval is the time between two polls without a notification.
	pollInterval = 500 * time.Millisecond
	// pollTime limits one poll, and tableTime any other use of the Table.
	pollTime  = 5 * time.Second
	tableTime = 10 * time.Second
	// writeInterval is the minimum time between two writes, and gatherTime the time for
	// which the first sighting waits for others.
	writeInterval = 100 * time.Millisecond
	gatherTime    = 10 * time.Millisecond
	// retryWrite is the time after which a failed write is repeated.
	retryWrite = time.Second
	// chunk is the maximum number of rows of one write.
	chunk = 100
	// confirmDelay is the maximum time for which the confirmation of a version waits for
	// others, and confirmShare its maximum share of the time between two reads.
	confirmDelay = time.Second
	confirmShare = 100
	// maxPending is the maximum number of sightings that wait to be written, and that of
	// confirmations.
	maxPending = 10_000
	// maxRows is the maximum number of rows in the database.
	maxRows = 50_000
	// keepRows is how long a row is kept: longer than any entry of a cache, which is at most
	// 24 hours of ttl and 24 hours of max_stale. Rows of secrets that are still read are
	// written again.
	keepRows = 50 * time.Hour
	// pruneInterval is the time between two deletions of old rows.
	pruneInterval = 10 * time.Minute
	// jumpSlack is how much longer than the time since the last poll a new row may have
	// existed: the time that its commit took.
	jumpSlack = 2 * time.Second
)

// Tracker is this replica's view of what the replicas have seen. It is safe for concurrent
// use. Start, and then Run, must be called.
type Tracker struct {
	cfg    Config
	id     string
	began  time.Time     // the base of the times in seen
	poke   chan struct{} // of the writer; capacity 1
	ack    chan struct{} // of the renewal; capacity 1
	polled chan struct{} // requests a poll; capacity 1

	renewed atomic.Pointer[time.Time] // start of the last renewal of the lease

	confirming chan struct{} // has an element for each Confirm that writes
	view       leaseView

	mu      sync.Mutex
	mirror  map[ID]seen
	pending map[ID]waiting
	again   map[ID]waiting // confirmations of versions that the mirror has
	drops   map[ID]*dropState
	last    int64 // the number up to which rows are in the mirror
	pruned  int64 // the number up to which rows were deleted
	applied int64 // the number up to which the cache is without what they supersede
	// The start of the last successful poll, and the database's clock then.
	polledAt time.Time
	now      time.Duration
	// unsettled is until when leases are not trusted: the database failed, or its clock
	// jumped.
	unsettled time.Time
	failing   map[string]string // why the last use of the database failed, by consequence
	cleaned   time.Time         // when drops was cleaned
	delayed   int               // number of drops that wait
	stats     Stats
}

// seen is an entry of the mirror. Times are in nanoseconds since Tracker.began.
type seen struct {
	version     string
	at          int64 // the end of the read
	own         bool  // this replica made the read
	forced      int64 // reads that began before are dropped; 0 for none
	forcedOwner bool  // this replica forced it
	forcedMark  int64 // Row.ForcedMark
	fresh       int64 // the beginning of the last read by a replica that watches the secret; 0 for none
	freshOwn    bool  // this replica made that read
	seq         int64 // of the row
}

// waiting is a Sighting that is not written yet. Its ages are times until it is sent.
type waiting struct {
	Sighting
	ended, began time.Time
}

// Stats contains values for metrics.
type Stats struct {
	// Rows is the number of rows in the mirror, and Pending that of sightings that are not
	// written.
	Rows, Pending int
	// Writes is the number of sightings written, Dropped that of cache entries dropped,
	// Delayed that of drops that were delayed because there were too many, and Lost that of
	// sightings that were not written because too many were pending.
	Writes, Dropped, Delayed, Lost uint64
	// Unacknowledged is the number of replicas that did not acknowledge a Confirm.
	Unacknowledged uint64
	// PolledAt is the start of the last successful poll.
	PolledAt time.Time
	// Problems are what fails now and why.
	Problems []string
}

// New returns a Tracker.
func New(c Config) *Tracker {
	if c.Hint == nil {
		c.Hint = func(Key, string) {}
	}
	if c.Fresh == nil {
		c.Fresh = func(Key, string, time.Time) {}
	}
	if c.Lag == nil {
		c.Lag = func(time.Duration) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	return &Tracker{
		cfg: c, id: hex.EncodeToString(id[:]), began: time.Now(),
		poke: make(chan struct{}, 1), ack: make(chan struct{}, 1), polled: make(chan struct{}, 1),
		confirming: make(chan struct{}, confirmWrites), view: leaseView{turn: make(chan struct{}, 1)},
		mirror: make(map[ID]seen), pending: make(map[ID]waiting), again: make(map[ID]waiting), drops: make(map[ID]*dropState), failing: make(map[string]string),
	}
}

// ID returns the id of this replica's lease.
func (t *Tracker) ID() string { return t.id }

// Stats returns the current values.
func (t *Tracker) Stats() Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.stats
	s.Rows, s.Pending, s.PolledAt = len(t.mirror), len(t.pending), t.polledAt
	for _, consequence := range slices.Sorted(maps.Keys(t.failing)) {
		s.Problems = append(s.Problems, consequence+": "+t.failing[consequence])
	}
	return s
}

// since converts a time of the monotonic clock.
func (t *Tracker) since(at time.Time) int64 { return int64(at.Sub(t.began)) }

// Start creates the lease and reads the table. It must return before the replica reads its
// first secret.
func (t *Tracker) Start(ctx context.Context) error {
	if err := t.poll(ctx); err != nil {
		return err
	}
	if err := t.renew(ctx); err != nil {
		return err
	}
	return t.poll(ctx) // rows that were written before the lease existed
}

// Run follows the other replicas until ctx ends, and then deletes the lease. It is called
// once, after Start, and must end after the last call was answered.
func (t *Tracker) Run(ctx context.Context) error {
	var loops sync.WaitGroup
	loops.Go(func() { t.writeLoop(ctx) })
	loops.Go(func() { t.leaseLoop(ctx) })
	loops.Go(func() { t.pruneLoop(ctx) })
	t.pollLoop(ctx)
	loops.Wait()
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), pollTime)
	defer cancel()
	for more := true; more; { // what the last calls have read
		var err error
		if more, err = t.writeSome(end); err != nil {
			break
		}
	}
	if err := t.cfg.Table.ReleaseLease(end, t.id); err != nil {
		t.cfg.Logger.Warn("the lease of this replica remains in the database until it expires", "error", err)
	}
	return nil
}

// poked fills a channel of capacity 1.
func poked(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Saw records that a read of this replica, which has just ended, saw a version. It does not
// block, and writes nothing if the version is known.
func (t *Tracker) Saw(k Key, scheme, version string) {
	if !shareable(&k, version) {
		return
	}
	now := time.Now()
	id := k.id(scheme)
	t.mu.Lock()
	defer t.mu.Unlock()
	_, waits := t.pending[id]
	if m, ok := t.mirror[id]; ok && m.version == version && !waits {
		return
	}
	if !waits && len(t.pending) >= maxPending {
		t.stats.Lost++
		return
	}
	t.pending[id] = waiting{Sighting: Sighting{ID: id, Key: k, Scheme: scheme, Seen: version}, ended: now}
	poked(t.poke)
}

// gone is the version in the sighting of a secret that does not exist any more or is disabled.
// No store has such a version.
const gone = "(gone)"

// SawNone records that a read of this replica, which has just ended, found that a secret does
// not exist or is disabled. It does not block, and writes nothing unless a replica has seen a
// version of the secret.
func (t *Tracker) SawNone(k Key, scheme string) {
	id := k.id(scheme)
	t.mu.Lock()
	m, known := t.mirror[id]
	w, waits := t.pending[id]
	t.mu.Unlock()
	if known && m.version != "" && m.version != gone || waits && w.Seen != gone {
		t.Saw(k, scheme, gone)
	}
}

// ReadWatched records that a read of this replica saw the version of a secret that is watched
// here and read again after a time. The read began at readAt and has ended. next is whether
// this replica is the one to read it next; otherwise it is another one, which has read it
// shortly before or after, and this one is to read it only if the other one does not. It
// does not block, and writes nothing if the last read that was written is recent.
func (t *Tracker) ReadWatched(k Key, scheme, version string, readAt time.Time, every time.Duration) (next bool) {
	if scheme == SchemeNone || !shareable(&k, version) {
		return true
	}
	id := k.id(scheme)
	at := t.since(readAt)
	t.mu.Lock()
	defer t.mu.Unlock()
	if w, ok := t.pending[id]; ok && w.Seen == version {
		w.Fresh, w.began = true, readAt
		t.pending[id] = w
		return true
	}
	m, known := t.mirror[id]
	if known && m.version == version && m.fresh != 0 && m.fresh > at-int64(every/2) {
		return m.freshOwn
	}
	if len(t.again) >= maxPending {
		return true // every replica reads for itself
	}
	t.again[id] = waiting{Sighting: Sighting{ID: id, Key: k, Scheme: scheme, Seen: version, Fresh: true, Confirmation: true}, began: readAt, ended: time.Now()}
	if delay := min(every/confirmShare, confirmDelay); len(t.again) == 1 || delay < writeInterval {
		time.AfterFunc(delay, func() { poked(t.poke) })
	}
	return true
}

// SchemeNone is the scheme of secrets whose versions tell other replicas nothing.
const SchemeNone = "-"

// Superseded reports whether a read of this replica, which began at readAt, saw an older
// state of a secret than is known, so that its outcome must not be kept.
func (t *Tracker) Superseded(k Key, version string, readAt time.Time) bool {
	ids := [3]ID{k.id(""), k.id(SchemeNone)}
	n := 2
	if t.cfg.Scheme != "" {
		ids[2], n = k.id(t.cfg.Scheme), 3
	}
	at := t.since(readAt)
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, id := range ids[:n] {
		if m, ok := t.mirror[id]; ok && m.supersedes(version, at) {
			return true
		}
	}
	return false
}

// Known reports whether any replica has read a secret lately, and the version that was seen
// last, which is "" if this replica cannot compare it with its own.
func (t *Tracker) Known(k Key) (version string, ok bool) {
	ids := [3]ID{k.id(""), k.id(SchemeNone), k.id(t.cfg.Scheme)}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, id := range ids {
		if m, found := t.mirror[id]; found {
			return m.version, true
		}
	}
	return "", false
}

// supersedes reports whether a read with a version that began at readAt is superseded.
func (m *seen) supersedes(version string, readAt int64) bool {
	if m.forced != 0 && !m.forcedOwner && readAt < m.forced {
		return true
	}
	return m.version != "" && !m.own && m.at != 0 && version != m.version && readAt <= m.at
}

// Detached reports whether the lease was not renewed for Config.ServesFor. The replica must
// then not answer calls: the others no longer name it.
func (t *Tracker) Detached() bool {
	renewed := t.renewed.Load()
	if renewed != nil && elapsed.Between(*renewed, time.Now()) <= t.cfg.ServesFor {
		return false
	}
	poked(t.ack)
	return true
}

// maxText is the maximum length of each text of a row, in bytes.
const maxText = 2048
