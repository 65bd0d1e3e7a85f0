package audit

import (
	"context"
	"hash/maphash"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit/chain"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// The limits of a Limiter, per second.
const (
	// MaxRefusalBytes limits how many bytes per second the refusals of one principal
	// add to the log.
	MaxRefusalBytes = 64 << 10
	// maxCounted is the part of MaxRefusalBytes that is reserved for the Counted
	// record: a principal and a number per reason.
	maxCounted = 4 << 10
	// maxRefused limits how many principals a Limiter tracks, with up to 3 KiB each. It
	// tracks only those that were refused within the last second.
	maxRefused = 4096
	// countPause is the interval at which Counted records are written.
	countPause = time.Second
	// flushed is the number of Counted records per Write.
	flushed = 512
	// minRecord is a lower bound of a record's length, in bytes.
	minRecord = 200
)

// Count counts refusals that have no records of their own.
type Count struct {
	// Total is the number of refused configs and of refused calls without configs.
	Total uint64 `json:"total"`
	// Since is the time of the first refusal.
	Since time.Time `json:"since"`
	// Reasons is the number of refusals per reason. Withheld values have no reason and
	// count in Total only.
	Reasons map[secret.Reason]uint64 `json:"reasons,omitempty"`
}

// Limiter limits how much refused calls write to a Log, so that one caller cannot fill the
// disk.
//
// It always records a call in full if the call delivers something to its caller. Of the
// calls that deliver nothing, it records in full, per principal and second:
//
//   - one Denied or Rejected call for each integration, method and reason,
//   - all Failed and Withheld ones,
//   - but together at most MaxRefusalBytes.
//
// It counts the others in one Counted record per principal, which Run writes within a
// second. A Limiter is safe for concurrent use.
type Limiter struct {
	log     *Log
	seed    maphash.Seed
	counted atomic.Uint64

	mu      sync.Mutex
	callers map[authz.Principal]*refusals
}

// refusals are the refusals of one principal since Counted records were last written.
type refusals struct {
	full  []uint64 // hashes of what is recorded in full, see key
	bytes int      // size of the records in full
	Count
}

// NewLimiter makes a Limiter that writes to log.
func NewLimiter(log *Log) *Limiter {
	return &Limiter{log: log, seed: maphash.MakeSeed(), callers: make(map[authz.Principal]*refusals)}
}

// Begin is Log.Begin for the events of one call. The Position is that of a call that delivers
// something. It waits for no record of events that it
// only counts: if the process is killed, the counts of the last second are lost.
func (l *Limiter) Begin(events []Event) (Receipt, Position, error) {
	if !delivers(events) {
		receipt, _, err := l.log.Begin(l.limit(events))
		return receipt, Position{}, err
	}
	return l.log.Begin(events)
}

// Refuse is Log.Write for the events of a call that delivers nothing. Like Begin, it may
// count some of them instead.
func (l *Limiter) Refuse(ctx context.Context, events []Event) error {
	return l.log.Write(ctx, l.limit(events))
}

// Write is Log.Write. It counts none of the events.
func (l *Limiter) Write(ctx context.Context, events []Event) error { return l.log.Write(ctx, events) }

// Counted returns how many refusals were counted rather than recorded in full.
func (l *Limiter) Counted() uint64 { return l.counted.Load() }

// delivers reports whether a call with these events gives its caller something.
func delivers(events []Event) bool {
	for i := range events {
		switch events[i].Outcome {
		case Denied, Rejected, Failed, Withheld:
		default:
			return true
		}
	}
	return false
}

// limit returns the events that are recorded in full, and counts the others.
func (l *Limiter) limit(events []Event) []Event {
	if len(events) == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.of(events[0].Principal)
	before := len(r.full)
	full := make([]Event, 0, min(len(events), 8))
	for i := range events {
		e := &events[i]
		if r.admit(e, l.key(e), before) {
			full = append(full, *e)
			continue
		}
		r.count(e.Reason, 1, e.Time)
		l.counted.Add(1)
	}
	return full
}

// of returns the refusals of a principal. If there are too many principals, it returns
// the refusals that all others share, under the empty principal. The caller holds l.mu.
func (l *Limiter) of(who authz.Principal) *refusals {
	r := l.callers[who]
	if r == nil && len(l.callers) >= maxRefused {
		who = ""
		r = l.callers[who]
	}
	if r == nil {
		r = &refusals{}
		if who == "" {
			r.bytes = MaxRefusalBytes // the shared record names no caller, so count all of them
		}
		l.callers[who] = r
	}
	return r
}

// key identifies the integration, method and reason of an event. At most one call per second and
// key is recorded in full; 0 means no such limit.
func (l *Limiter) key(e *Event) uint64 {
	if e.Outcome != Denied && e.Outcome != Rejected {
		return 0
	}
	var h maphash.Hash
	h.SetSeed(l.seed)
	_, _ = h.WriteString(e.IntegrationID)
	_ = h.WriteByte(0)
	_, _ = h.WriteString(e.Method)
	_ = h.WriteByte(0)
	_, _ = h.WriteString(string(e.Reason))
	return h.Sum64() | 1
}

// admit reports whether the event is recorded in full. before is the number of keys before
// the event's call: the events of one call do not exclude each other.
func (r *refusals) admit(e *Event, key uint64, before int) bool {
	const limit = MaxRefusalBytes - maxCounted
	known := slices.Index(r.full, key)
	if key != 0 && known >= 0 && known < before || r.bytes+minRecord > limit {
		return false
	}
	size := sizeOf(e)
	if r.bytes+size > limit {
		r.bytes = limit // count the rest of the second without encoding it
		return false
	}
	r.bytes += size
	if key != 0 && known < 0 {
		r.full = append(r.full, key)
	}
	return true
}

// sizeOf returns an upper bound of the length of the event's line, in bytes.
func sizeOf(e *Event) int {
	line, err := appendEvent(nil, e)
	if err != nil {
		return MaxRefusalBytes // writing it would fail, too
	}
	return len(line) + chain.MaxEnding + 1
}

func (r *refusals) count(reason secret.Reason, n uint64, at time.Time) {
	if n == 0 {
		return
	}
	r.Total += n
	if r.Since.IsZero() || at.Before(r.Since) {
		r.Since = at
	}
	if reason == "" {
		return
	}
	if r.Reasons == nil {
		r.Reasons = make(map[secret.Reason]uint64)
	}
	r.Reasons[reason] += n
}

// Run writes the Counted records every second until ctx ends, and then once more. Callers
// must not call Begin or Refuse after Run has returned.
func (l *Limiter) Run(ctx context.Context) error {
	ticker := time.NewTicker(countPause)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			l.flush()
			return nil
		case <-ticker.C:
			l.flush()
		}
	}
}

// flush writes the Counted records and starts the next second. If a write fails, the
// counts are kept.
func (l *Limiter) flush() {
	l.mu.Lock()
	callers := l.callers
	l.callers = make(map[authz.Principal]*refusals)
	l.mu.Unlock()
	var records []Event
	now := time.Now().UTC()
	for _, who := range slices.Sorted(maps.Keys(callers)) {
		if r := callers[who]; r.Total > 0 {
			records = append(records, Event{Type: TypeRefusals, Time: now, Principal: who, Outcome: Counted, Count: &r.Count})
		}
	}
	for chunk := range slices.Chunk(records, flushed) {
		if l.log.Write(context.Background(), chunk) != nil {
			l.restore(chunk)
		}
	}
}

// restore adds counts that could not be written to the current ones.
func (l *Limiter) restore(records []Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range records {
		lost, r := records[i].Count, l.of(records[i].Principal)
		unexplained := lost.Total
		for reason, n := range lost.Reasons {
			r.count(reason, n, lost.Since)
			unexplained -= n
		}
		r.count("", unexplained, lost.Since)
	}
}
