// Package usage owns the account of who uses which integration: off the way of a
// call, in bounded memory, and written down in batches.
//
// It knows who, what and when, and never a value.
package usage

import (
	"context"
	"encoding/binary"
	"hash/maphash"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Config is what a Recorder is made of. Only Store is required.
type Config struct {
	Store registry.UsageStore
	// Interval is how often usage is written down; 0 means 5 s.
	Interval time.Duration
	// MaxEntries is how many different uses are told apart at a time; 0 means
	// 65,536. Callers choose the names of their connectors, so there has to be an
	// end. One principal has at most an eighth of them, and one more entry for each
	// integration that it uses.
	MaxEntries int
	// Logger is told when usage cannot be written down; nil discards.
	Logger *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

const (
	// shards keep callers out of each other's way.
	shards = 64
	// idle is how many intervals an entry is kept without being used.
	idle = 60
	// writeTime bounds one writing down.
	writeTime = 10 * time.Second
	// batchSize is how many entries are written in one go, some more by those of one
	// shard. What is written stays written if a later batch fails.
	batchSize = 2048
)

// Recorder counts uses. It is safe for concurrent use.
type Recorder struct {
	cfg     Config
	seed    maphash.Seed
	shards  [shards]shard
	entries atomic.Int64
	folded  atomic.Uint64
	shares  shares
	failing atomic.Bool
	// flushing has an element while a flush is under way. Another one waits for it:
	// what it has taken is written down only when it ends.
	flushing chan struct{}
	next     int // shard that the next flush begins with; guarded by flushing
}

type shard struct {
	mu sync.Mutex // guards the entries and what is in them
	// entries are by what appendKey writes: one text for each, so that a lookup reads
	// one place in memory, and the garbage collector nothing.
	entries map[string]*entry
	_       [64]byte // a cache line, so that shards do not share one
}

// entry is one use since the last flush. Times are in nanoseconds since 1970.
type entry struct {
	first, last int64 // first is 0 if it was not used since
	version     string
	shard       int32
	quiet       int32 // intervals without a use
	limited     bool  // counted by shares
}

// keyParts is how many strings a key consists of.
const keyParts = 6

// appendKey appends what tells uses apart: the strings, each after its length.
func appendKey(b []byte, who authz.Principal, connector, integration string, ref *secret.Ref) []byte {
	for _, part := range [keyParts]string{integration, string(who), connector, ref.Store, ref.Name, ref.Key} {
		b = binary.AppendUvarint(b, uint64(len(part)))
		b = append(b, part...)
	}
	return b
}

// splitKey returns the strings of a key, which are parts of it.
func splitKey(k string) (parts [keyParts]string) {
	for i := range parts {
		n, width := uvarint(k)
		parts[i], k = k[width:width+n], k[width+n:]
	}
	return parts
}

// uvarint is binary.Uvarint of a string that begins with the length of a part.
func uvarint(s string) (n, width int) {
	for shift := 0; ; shift += 7 {
		c := s[width]
		n |= int(c&0x7f) << shift
		if width++; c < 0x80 {
			return n, width
		}
	}
}

// New makes a Recorder, which Run runs.
func New(c Config) *Recorder {
	if c.Interval <= 0 {
		c.Interval = 5 * time.Second
	}
	if c.MaxEntries <= 0 {
		c.MaxEntries = 1 << 16
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	r := &Recorder{cfg: c, seed: maphash.MakeSeed(), flushing: make(chan struct{}, 1)}
	r.shares = shares{most: max(1, c.MaxEntries/shareOf), of: make(map[authz.Principal]*share)}
	for i := range r.shards {
		r.shards[i].entries = make(map[string]*entry)
	}
	return r
}

// Used notes that who was given a secret. It waits for nothing, and allocates
// only for what it sees for the first time in a while and for names that are very
// long. It keeps version, but none of the other strings.
//
// Nothing goes unnoted: what a principal has too many of is noted without the
// connector's name, and beyond that as a use of the integration alone.
func (r *Recorder) Used(who authz.Principal, connector, integration string, ref secret.Ref, version string) {
	switch {
	case r.note(who, connector, integration, &ref, version, true):
		return
	case connector != "" && r.note(who, "", integration, &ref, version, true):
	default:
		r.note(who, "", integration, &secret.Ref{}, "", false)
	}
	r.folded.Add(1)
}

// note notes a use under a key. A key that is not in memory yet has to be one that
// the principal may add, if limited; it reports whether that is so.
func (r *Recorder) note(who authz.Principal, connector, integration string, ref *secret.Ref, version string, limited bool) bool {
	var space [512]byte
	k := appendKey(space[:0], who, connector, integration, ref)
	i := int32(maphash.Bytes(r.seed, k) % shards)
	now := r.cfg.Now().UnixNano()
	s := &r.shards[i]
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[string(k)]
	if e == nil {
		if limited {
			if r.entries.Load() >= int64(r.cfg.MaxEntries) || !r.shares.join(who, connector) {
				return false
			}
		}
		r.entries.Add(1)
		e = &entry{shard: i, limited: limited}
		s.entries[string(k)] = e
	}
	e.version, e.last = version, now
	if e.first == 0 {
		e.first = now
	}
	return true
}

// Folded is how many uses were noted without all that tells them apart, because
// there were too many different ones.
func (r *Recorder) Folded() uint64 { return r.folded.Load() }

// Entries is how many different uses are in memory.
func (r *Recorder) Entries() int { return int(r.entries.Load()) }

// Run writes usage down until ctx ends, and then once more. It is called once at
// most.
func (r *Recorder) Run(ctx context.Context) error {
	tick := time.NewTicker(r.cfg.Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			_ = r.flush(context.WithoutCancel(ctx)) // which logs
			return nil
		case <-tick.C:
			_ = r.flush(ctx) // which logs
		}
	}
}

// Flush writes down what has been noted so far, for 10 s at most. If there is an
// error, nothing is lost: what is not written yet is tried again.
func (r *Recorder) Flush(ctx context.Context) error { return r.flush(ctx) }

func (r *Recorder) flush(ctx context.Context) error {
	select {
	case r.flushing <- struct{}{}:
		defer func() { <-r.flushing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, writeTime)
	defer cancel()
	var batch []registry.Usage
	var taken []*entry
	first := r.next
	for n := range shards {
		// A flush that fails is continued, so that each entry gets its turn.
		r.next = (first + n + 1) % shards
		batch, taken = r.take(&r.shards[(first+n)%shards], batch, taken)
		if len(batch) < batchSize && n < shards-1 || len(batch) == 0 {
			continue
		}
		if err := r.write(ctx, batch, taken); err != nil {
			return err
		}
		batch, taken = nil, nil
	}
	return nil
}

// write writes a batch down, or puts it back.
func (r *Recorder) write(ctx context.Context, batch []registry.Usage, taken []*entry) error {
	err := r.cfg.Store.MergeUsage(ctx, batch)
	if err == nil {
		if r.failing.Swap(false) {
			r.cfg.Logger.Info("usage is written down again")
		}
		return nil
	}
	// Put back: the next flush may succeed.
	for i, e := range taken {
		r.giveBack(e, batch[i].FirstAt.UnixNano())
	}
	if !r.failing.Swap(true) {
		r.cfg.Logger.Warn("usage cannot be written down for now", "error", err)
	}
	return err
}

// InMemory returns the uses of an integration since then that r remembers, the latest
// first. They include all that are not written down yet, also those that a flush is
// writing. FirstAt is not set. It waits for no store.
func (r *Recorder) InMemory(integration string, since time.Time) []registry.Usage {
	prefix := string(binary.AppendUvarint(nil, uint64(len(integration)))) + integration
	var all []registry.Usage
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		for k, e := range s.entries {
			if strings.HasPrefix(k, prefix) && e.last >= since.UnixNano() {
				all = append(all, usageOf(k, e))
			}
		}
		s.mu.Unlock()
	}
	slices.SortFunc(all, func(a, b registry.Usage) int { return b.LastAt.Compare(a.LastAt) })
	return all
}

// usageOf returns an entry but for its FirstAt.
func usageOf(k string, e *entry) registry.Usage {
	part := splitKey(k)
	return registry.Usage{
		Integration: part[0], Principal: authz.Principal(part[1]), Connector: part[2],
		Store: part[3], Secret: part[4], Key: part[5], Version: e.version,
		LastAt: time.Unix(0, e.last).UTC(),
	}
}

// giveBack makes first what it was: no use that was noted meanwhile is older.
func (r *Recorder) giveBack(e *entry, first int64) {
	s := &r.shards[e.shard]
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.first == 0 || first < e.first {
		e.first = first
	}
}

// take adds what was used in a shard to batch, and forgets what has not been for
// long.
func (r *Recorder) take(s *shard, batch []registry.Usage, taken []*entry) ([]registry.Usage, []*entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, e := range s.entries {
		if e.first == 0 {
			if e.quiet++; e.quiet > idle {
				delete(s.entries, k)
				r.entries.Add(-1)
				if e.limited {
					part := splitKey(k)
					r.shares.leave(authz.Principal(part[1]), part[2])
				}
			}
			continue
		}
		e.quiet = 0
		u := usageOf(k, e)
		u.FirstAt = time.Unix(0, e.first).UTC()
		batch = append(batch, u)
		e.first = 0
		taken = append(taken, e)
	}
	return batch, taken
}
