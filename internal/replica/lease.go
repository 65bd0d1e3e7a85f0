package replica

import (
	"cmp"
	"context"
	"slices"
	"time"
)

const (
	// leaseTime is how long a lease is valid after its renewal.
	leaseTime = 10 * time.Second
	// renewInterval is the time between two renewals.
	renewInterval = 3 * time.Second
	// ackInterval is the minimum time between two looks at the leases while calls of Confirm
	// wait.
	ackInterval = 25 * time.Millisecond
	// ackTime is how long after the beginning of a confirmed read a Confirm may still wait
	// for the row: longer than any read.
	ackTime = time.Minute
	// confirmWrites is the maximum number of calls of Confirm that write at the same time.
	confirmWrites = 2
	// confirmTime is how long Confirm waits.
	confirmTime = 2 * time.Second
	// servesSlack is added to Config.ServesFor in the lease: for calls in progress.
	servesSlack = time.Minute
)

// Coverage is the answer of Confirm: which replicas have dropped older reads.
type Coverage struct {
	State CoverageState
	// Behind are the replicas that have not, with SomeReplicas.
	Behind []Lease
}

// CoverageState is a kind of Coverage.
type CoverageState uint8

// The kinds of Coverage.
const (
	// ThisReplica: no other replica was told, because there is no database.
	ThisReplica CoverageState = iota
	// AllReplicas: every replica that may answer calls.
	AllReplicas
	// SomeReplicas: all but those in Behind.
	SomeReplicas
	// Unknown: the database failed.
	Unknown
)

// Read is a read of this replica that Confirm is to make known.
type Read struct {
	Key
	// Scheme and Version are as in Saw; Version is "" if it tells other replicas nothing.
	Scheme, Version string
	// Began is the start of the read, and Ended its end.
	Began, Ended time.Time
}

// Confirm makes all replicas drop reads that began before these, and waits until they have,
// for at most two seconds. Of several reads of one secret, which references in several forms
// cause, it tells the one that began last.
func (t *Tracker) Confirm(ctx context.Context, reads []Read) Coverage {
	rows := make([]waiting, 0, len(reads))
	known := make(map[ID]int, len(reads))
	for _, r := range reads {
		version := r.Version
		if !shareable(&r.Key, cmp.Or(version, "-")) {
			return Coverage{State: Unknown}
		}
		id := r.id(r.Scheme)
		i, again := known[id]
		if again && !r.Began.After(rows[i].began) {
			continue // the same secret by another name
		}
		if !again {
			i = len(rows)
			known[id], rows = i, append(rows, waiting{})
		}
		rows[i] = waiting{Sighting: Sighting{ID: id, Key: r.Key, Scheme: r.Scheme, Seen: version, Forced: true}, ended: r.Ended, began: r.Began}
	}
	if len(rows) == 0 {
		return Coverage{State: Unknown}
	}
	ctx, cancel := context.WithTimeout(ctx, confirmTime)
	defer cancel()
	seq, ok := t.writeForced(ctx, rows)
	if !ok {
		return Coverage{State: Unknown}
	}
	c := t.awaitApplied(ctx, seq)
	t.mu.Lock()
	defer t.mu.Unlock()
	if c.State == AllReplicas && time.Now().Before(t.unsettled) {
		c.State = Unknown // there may be replicas whose leases are gone
	}
	t.stats.Unacknowledged += uint64(len(c.Behind))
	return c
}

// writeForced writes rows for Confirm and returns the number of the last one. Only a few calls
// write at the same time, so that many calls of Refresh leave connections to the database for
// the leases.
func (t *Tracker) writeForced(ctx context.Context, rows []waiting) (seq int64, ok bool) {
	select {
	case t.confirming <- struct{}{}:
		defer func() { <-t.confirming }()
	case <-ctx.Done():
		return 0, false
	}
	for some := range slices.Chunk(rows, chunk) {
		var err error
		if seq, err = t.write(ctx, some); err != nil {
			t.failed(notWritten, err)
			return 0, false
		}
	}
	return seq, true
}

// leaseView is the last look at the leases. All calls of Confirm share it.
type leaseView struct {
	turn   chan struct{} // capacity 1; guards the other fields
	began  time.Time
	leases []Lease
}

// leasesSince returns the leases at a time after since. However many calls wait, it reads
// them at most once in ackInterval.
func (t *Tracker) leasesSince(ctx context.Context, since time.Time) ([]Lease, error) {
	v := &t.view
	select {
	case v.turn <- struct{}{}:
		defer func() { <-v.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if v.began.After(since) {
		return v.leases, nil
	}
	if wait := ackInterval - time.Since(v.began); wait > 0 && !sleep(ctx, wait) {
		return nil, ctx.Err()
	}
	began := time.Now()
	leases, err := t.cfg.Table.Leases(ctx)
	if err != nil {
		return nil, err
	}
	v.began, v.leases = began, leases
	return leases, nil
}

// awaitApplied waits until all other replicas with a live lease have applied a row, or ctx
// ends.
func (t *Tracker) awaitApplied(ctx context.Context, seq int64) Coverage {
	c := Coverage{State: Unknown}
	for {
		leases, err := t.leasesSince(ctx, time.Now())
		if err == nil {
			var behind []Lease
			waits := false
			for _, l := range leases {
				if l.ID != t.id && l.Serves && l.Applied < seq {
					behind = append(behind, l)
					waits = waits || l.Live
				}
			}
			if c = (Coverage{State: AllReplicas}); len(behind) > 0 {
				c = Coverage{State: SomeReplicas, Behind: behind}
			}
			if !waits {
				return c
			}
		}
		if !sleep(ctx, ackInterval) {
			return c
		}
	}
}

// leaseLoop renews the lease.
func (t *Tracker) leaseLoop(ctx context.Context) {
	timer := time.NewTimer(renewInterval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-t.ack:
		}
		next := renewInterval
		if err := t.renew(ctx); err != nil && ctx.Err() == nil {
			t.failed(notLeased, err)
			next = retryWrite
		}
		timer.Reset(next)
	}
}

// renew renews the lease and acknowledges what was applied.
func (t *Tracker) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pollTime)
	defer cancel()
	t.mu.Lock()
	applied := t.applied
	t.mu.Unlock()
	began := time.Now()
	if err := t.cfg.Table.RenewLease(ctx, Lease{ID: t.id, Name: t.cfg.Name, Applied: applied}, leaseTime, t.cfg.ServesFor+servesSlack); err != nil {
		return err
	}
	t.renewed.Store(&began)
	t.works(notLeased)
	return nil
}
