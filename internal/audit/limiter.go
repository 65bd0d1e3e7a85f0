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

// The bounds of a Limiter, for each second.
const (
	// MaxRefusalBytes is how many bytes of the log the refusals of one principal take
	// in a second at most.
	MaxRefusalBytes = 64 << 10
	// maxCounted is how much of that is kept for the counted record: a principal
	// and the number of each reason.
	maxCounted = 4 << 10
	// maxRefused is how many principals a Limiter knows, each with 3 KiB at most. It
	// has to know only those that were refused within the last second.
	maxRefused = 4096
	// countPause is the time between two writes of counted records.
	countPause = time.Second
	// flushed is how many Counted records share a Write.
	flushed = 512
	// minRecord is less than the shortest record.
	minRecord = 200
)

// Count is what a Counted record says of refusals that are not recorded in full.
type Count struct {
	// Total is how many configs, and calls that are about none, the record is of.
	Total uint64 `json:"total"`
	// Since is when the first of them was refused.
	Since time.Time `json:"since"`
	// Reasons says how many there were of each reason. Withheld values have none and
	// are in Total only.
	Reasons map[secret.Reason]uint64 `json:"reasons,omitempty"`
}

// Limiter bounds how much refused calls write to a Log, so that one caller cannot
// fill the disk. A call that delivers something is recorded in full, always. Of the
// calls that deliver nothing, a principal has for each integration and reason
// one Denied or Rejected call each second in full, and its Failed and Withheld ones,
// as long as all of them take less than MaxRefusalBytes. Every other one becomes part
// of one Counted record of the principal, which is written within a second.
//
// A Limiter is safe for concurrent use. Run writes the Counted records.
type Limiter struct {
	log     *Log
	seed    maphash.Seed
	counted atomic.Uint64

	mu      sync.Mutex
	callers map[authz.Principal]*refusals
}

// refusals are those of one principal since Counted records were last written.
type refusals struct {
	full  []uint64 // hashes of the integrations and reasons that are recorded in full
	bytes int      // of what is recorded in full
	Count
}

// NewLimiter makes a Limiter that writes to log.
func NewLimiter(log *Log) *Limiter {
	return &Limiter{log: log, seed: maphash.MakeSeed(), callers: make(map[authz.Principal]*refusals)}
}

// Begin is Log.Begin for the events of one call. Those that are only counted have no
// Receipt: if the process is killed, the counts of the last second are lost.
func (l *Limiter) Begin(events []Event) (Receipt, error) {
	if !delivers(events) {
		events = l.limit(events)
	}
	return l.log.Begin(events)
}

// Refuse is Log.Write for the events of one call that delivers nothing. Like Begin it
// may count some of them.
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
	before := len(r.full) // what the call itself adds does not count against it
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

// of returns the refusals of a principal, or those of nobody in particular if there
// are too many principals. Callers hold l.mu.
func (l *Limiter) of(who authz.Principal) *refusals {
	r := l.callers[who]
	if r == nil && len(l.callers) >= maxRefused {
		who = ""
		r = l.callers[who]
	}
	if r == nil {
		r = &refusals{}
		if who == "" {
			r.bytes = MaxRefusalBytes // their record names no caller, so none of them is in full
		}
		l.callers[who] = r
	}
	return r
}

// key is what at most one call in a second is recorded for in full; 0 is any.
func (l *Limiter) key(e *Event) uint64 {
	if e.Outcome != Denied && e.Outcome != Rejected {
		return 0
	}
	var h maphash.Hash
	h.SetSeed(l.seed)
	_, _ = h.WriteString(e.Integration)
	_ = h.WriteByte(0)
	_, _ = h.WriteString(string(e.Reason))
	return h.Sum64() | 1
}

// admit reports whether the event is recorded in full. before is how many keys there
// were before its call.
func (r *refusals) admit(e *Event, key uint64, before int) bool {
	const most = MaxRefusalBytes - maxCounted
	known := slices.Index(r.full, key)
	if key != 0 && known >= 0 && known < before || r.bytes+minRecord > most {
		return false
	}
	size := sizeOf(e)
	if r.bytes+size > most {
		r.bytes = most // the rest of the second is only counted, without encoding
		return false
	}
	r.bytes += size
	if key != 0 && known < 0 {
		r.full = append(r.full, key)
	}
	return true
}

// sizeOf is how long the event's line is at most.
func sizeOf(e *Event) int {
	line, err := appendEvent(nil, e)
	if err != nil {
		return MaxRefusalBytes // writing it will fail, too
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

// Run writes the Counted records every second until ctx ends, and then the last
// ones. Nothing may be refused after it has returned.
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

// flush writes the Counted records and begins a new second. What cannot be written
// is counted further.
func (l *Limiter) flush() {
	l.mu.Lock()
	callers := l.callers
	l.callers = make(map[authz.Principal]*refusals)
	l.mu.Unlock()
	var records []Event
	now := time.Now().UTC()
	for _, who := range slices.Sorted(maps.Keys(callers)) {
		if r := callers[who]; r.Total > 0 {
			records = append(records, Event{Time: now, Principal: who, Outcome: Counted, Count: &r.Count})
		}
	}
	for chunk := range slices.Chunk(records, flushed) {
		if l.log.Write(context.Background(), chunk) != nil {
			l.restore(chunk)
		}
	}
}

// restore adds what could not be written to what has been counted since.
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
