// Package usage records which principal uses which secret of which integration, and when.
// It records no values.
//
// A call must not wait for the database to record its usage, so the package works in two
// steps:
//
//  1. Recorder.Used counts a use in memory. The memory is limited: a principal with too many
//     different uses keeps coarser entries, and its share of the entries is limited.
//  2. Run periodically flushes the uses since the last flush to a registry.UsageStore, in
//     batches.
//
// A flush takes the entries of a few shards, marks them as written and sends them to the
// store as one batch, without holding a lock. If the store fails, the entries of this batch
// are marked as unwritten again (giveBack), with the time of their first use; nothing is
// lost but the process's memory if it ends. Batches before it stay written. The next flush
// starts with the batch that failed, so that a slow store, which never writes all shards
// within the time limit, does not always omit the same entries. If the batch failed as the
// first one of its flush, the next flush starts after it, so that a batch that the store
// always refuses does not keep the others from being written.
//
// For each use the store keeps the last few versions of the secret and the call that read
// each of them first. The Recorder keeps of a version only what is not written yet: normally
// nothing, because a version that was read before adds nothing to the times of the entry.
//
// Recorder.Seen notes which version the broker itself found in a store, so that a use of an
// older version can be recognized.
package usage

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/maphash"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/registry"
)

// Config configures a Recorder. Only Store is required.
type Config struct {
	Store registry.UsageStore
	// Interval is the time between two flushes; 0 means 5 s.
	Interval time.Duration
	// MaxEntries is the maximum number of different uses in memory; 0 means 65,536.
	// There has to be a limit because callers choose the names of their connectors. One
	// principal has at most an eighth of the entries, and one more for each integration
	// that it uses.
	MaxEntries int
	// Replica names this replica in what it records.
	Replica string
	// Logger logs failed flushes; nil discards the messages.
	Logger *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

const (
	// shards is the number of shards, which reduce lock contention between callers.
	shards = 64
	// idle is the number of intervals after which an unused entry is removed.
	idle = 60
	// writeTime limits the duration of a flush.
	writeTime = 10 * time.Second
	// batchSize is the number of entries at which a batch is written; a batch can be larger
	// by the entries of one shard. A written batch stays written if a later one fails.
	batchSize = 2048
)

// Recorder records uses. It is safe for concurrent use.
type Recorder struct {
	cfg     Config
	seed    maphash.Seed
	shards  [shards]shard
	entries atomic.Int64
	folded  atomic.Uint64
	shares  shares
	failing atomic.Bool
	// flushing has an element during a flush. Another flush waits for it: its entries are
	// written only when it ends.
	flushing chan struct{}
	seen     seen
	next     int // the shard with which the next flush starts; guarded by flushing
}

type shard struct {
	mu sync.Mutex // guards entries and their fields
	// entries has the keys of appendKey. A key is a single string, so that a lookup reads
	// one block of memory and the garbage collector has no pointers to follow in it.
	entries map[string]*entry
	_       [64]byte // a cache line, to avoid false sharing between shards
}

// entry is a use since the last flush. Times are in nanoseconds since 1970.
type entry struct {
	first, last int64 // first is 0 if there was no use since the last flush
	version     string
	// reads are the unwritten first reads of versions, at most registry.MaxVersions. Nil means
	// that all uses since the last flush were of version, and that it was used before.
	reads   []read
	shard   int32
	quiet   int32 // number of intervals without a use
	limited bool  // shares counts the entry
}

// keyParts is the number of strings in a key.
const keyParts = 8

// appendKey appends the key of a use: its strings, each preceded by its length.
func appendKey(b []byte, u *registry.Read) []byte {
	for _, part := range [keyParts]string{u.Integration, u.UID, string(u.Principal), u.Connector, u.Ref.Store, u.Ref.Name, u.Ref.Key, u.GrantID} {
		b = binary.AppendUvarint(b, uint64(len(part)))
		b = append(b, part...)
	}
	return b
}

// splitKey returns the strings of a key. They share the key's memory.
func splitKey(k string) (parts [keyParts]string) {
	for i := range parts {
		n, width := uvarint(k)
		parts[i], k = k[width:width+n], k[width+n:]
	}
	return parts
}

// uvarint is binary.Uvarint for a string.
func uvarint(s string) (n, width int) {
	for shift := 0; ; shift += 7 {
		c := s[width]
		n |= int(c&0x7f) << shift
		if width++; c < 0x80 {
			return n, width
		}
	}
}

// New returns a Recorder. The caller runs it with Run.
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

// Used records that a caller got a secret. It never blocks, and allocates memory only for
// uses and versions that it has not seen for some time and for very long names. It retains
// the version, but none of the other strings.
//
// Every use is recorded. If a principal has too many different uses, Used leaves out the
// connector's name, or else records only a use of the integration.
func (r *Recorder) Used(u registry.Read) {
	named := u.Connector != ""
	if r.note(&u, true) {
		return
	}
	if u.Connector = ""; !named || !r.note(&u, true) {
		r.UsedIntegration(u.Principal, u.Integration, u.UID)
	}
	r.folded.Add(1)
}

// UsedIntegration records a use of an integration without a secret, such as by a caller that
// watches its secrets. It is like Used otherwise.
func (r *Recorder) UsedIntegration(who authz.Principal, integration, uid string) {
	r.note(&registry.Read{Principal: who, Integration: integration, UID: uid}, false)
}

// note records a use. If limited, a new entry must be within the principal's share; note
// reports whether it recorded the use.
func (r *Recorder) note(u *registry.Read, limited bool) bool {
	var space [512]byte
	k := appendKey(space[:0], u)
	i := int32(maphash.Bytes(r.seed, k) % shards)
	now := r.cfg.Now().UnixNano()
	s := &r.shards[i]
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[string(k)]
	if e == nil {
		if limited {
			if r.entries.Load() >= int64(r.cfg.MaxEntries) || !r.shares.join(u.Principal, u.Connector) {
				return false
			}
		}
		r.entries.Add(1)
		e = &entry{shard: i, limited: limited}
		s.entries[string(k)] = e
	}
	if e.version != u.Version {
		e.begin(u, now)
	}
	e.last = now
	if e.first == 0 {
		e.first = now
	}
	return true
}

// Folded returns the number of uses that were recorded without some of their attributes
// because there were too many different uses.
func (r *Recorder) Folded() uint64 { return r.folded.Load() }

// Entries returns the number of different uses in memory.
func (r *Recorder) Entries() int { return int(r.entries.Load()) }

// Run flushes usage at every interval until ctx ends, and then once more. It must be called
// at most once.
func (r *Recorder) Run(ctx context.Context) error {
	tick := time.NewTicker(r.cfg.Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			_ = r.flush(context.WithoutCancel(ctx)) // flush logs errors
			return nil
		case <-tick.C:
			_ = r.flush(ctx) // flush logs errors
		}
	}
}

// Flush writes the unwritten uses to the store, for at most 10 s. If it fails, the next flush
// tries the remaining ones again.
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
	// First, because a use of the current version must not look outdated meanwhile.
	// A failure does not prevent the record of uses, which protects integrations from deletion.
	seen := r.flushSeen(ctx)
	return errors.Join(seen, r.flushUses(ctx))
}

// flushUses writes the unwritten uses.
func (r *Recorder) flushUses(ctx context.Context) error {
	var batch []registry.Usage
	var taken []*entry
	first, batchStart := r.next, 0
	for n := range shards {
		batch, taken = r.take(&r.shards[(first+n)%shards], batch, taken)
		if len(batch) < batchSize && n < shards-1 || len(batch) == 0 {
			continue
		}
		if err := r.write(ctx, batch, taken); err != nil {
			if batchStart == 0 {
				batchStart = n + 1
			}
			r.next = (first + batchStart) % shards
			return err
		}
		batch, taken, batchStart = nil, nil, n+1
	}
	return nil
}

// write writes a batch, or marks its entries as unwritten again.
func (r *Recorder) write(ctx context.Context, batch []registry.Usage, taken []*entry) error {
	err := r.cfg.Store.MergeUsage(ctx, batch)
	if err != nil {
		// Mark the entries as unwritten: the next flush may succeed.
		for i, e := range taken {
			r.giveBack(e, &batch[i])
		}
	}
	return r.written(err)
}

// written logs changes between success and failure, and returns err.
func (r *Recorder) written(err error) error {
	switch {
	case err == nil && r.failing.Swap(false):
		r.cfg.Logger.Info("recording usage works again")
	case err != nil && !r.failing.Swap(true):
		r.cfg.Logger.Warn("cannot record usage; retrying", "error", err)
	}
	return err
}

// InMemory returns the uses of an integration since the given time that are in memory, the
// latest first. They include all unwritten uses, also those that a flush is writing now.
// FirstAt is not set, and Versions has only unwritten versions. InMemory does not access the store.
func (r *Recorder) InMemory(integration, uid string, since time.Time) []registry.Usage {
	var prefix string
	for _, part := range []string{integration, uid} {
		prefix += string(binary.AppendUvarint(nil, uint64(len(part)))) + part
	}
	var all []registry.Usage
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		for k, e := range s.entries {
			if strings.HasPrefix(k, prefix) && e.last >= since.UnixNano() {
				u := usageOf(k, e)
				u.Versions, _ = e.versions(r.cfg.Replica)
				all = append(all, u)
			}
		}
		s.mu.Unlock()
	}
	slices.SortFunc(all, func(a, b registry.Usage) int { return b.LastAt.Compare(a.LastAt) })
	return all
}

// usageOf returns an entry without its FirstAt and Versions.
func usageOf(k string, e *entry) registry.Usage {
	part := splitKey(k)
	return registry.Usage{
		Integration: part[0], UID: part[1], Principal: authz.Principal(part[2]), Connector: part[3],
		Store: part[4], Secret: part[5], Key: part[6], GrantID: part[7], Version: e.version,
		LastAt: time.Unix(0, e.last).UTC(),
	}
}

// giveBack restores what take has removed from an entry. Uses that were recorded in the
// meantime are later.
func (r *Recorder) giveBack(e *entry, u *registry.Usage) {
	s := &r.shards[e.shard]
	s.mu.Lock()
	defer s.mu.Unlock()
	if first := u.FirstAt.UnixNano(); e.first == 0 || first < e.first {
		e.first = first
	}
	switch {
	case u.Versions != nil:
		e.restore(u.Versions)
	case e.reads != nil && u.Version != "": // another version was read in the meantime
		e.restore([]registry.VersionUse{{Version: u.Version, FirstAt: u.FirstAt, LastAt: u.LastAt}})
	}
}

// take appends the unwritten uses of a shard to batch, marks them as written, and removes
// entries that have not been used for a long time. It leaves those whose records are not
// committed yet, which takes two seconds at most: no value has left the broker.
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
					r.shares.leave(authz.Principal(part[2]), part[3])
				}
			}
			continue
		}
		e.quiet = 0
		u := usageOf(k, e)
		u.FirstAt = time.Unix(0, e.first).UTC()
		var committed bool
		if u.Versions, committed = e.versions(r.cfg.Replica); !committed {
			continue
		}
		batch = append(batch, u)
		e.first, e.reads = 0, nil
		taken = append(taken, e)
	}
	return batch, taken
}
