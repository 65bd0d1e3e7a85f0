package history

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/registry"
)

const (
	// methodRestored is the method in the audit records of a restore.
	methodRestored = "RegistryRestored"
	// restoredRetry is the pause after a failed write of records.
	restoredRetry = 5 * time.Second
	// eventsAtOnce is the number of records per write.
	eventsAtOnce = 64
	// maxNote limits the bytes of grants that one record lists.
	maxNote = 8 << 10
)

// Restores reports that the database of integrations returned to an earlier state: a backup
// was restored, or a failover lost changes. Problem reports it until Acknowledge, and Run
// writes one audit record for each integration that differs. Restores is safe for
// concurrent use.
type Restores struct {
	kinds *integration.Kinds
	log   *slog.Logger
	now   func() time.Time
	wake  chan struct{}

	mu      sync.Mutex
	problem string
	events  []audit.Event // not written to the audit log yet
}

// NewRestores returns Restores that log to log.
func NewRestores(kinds *integration.Kinds, log *slog.Logger) *Restores {
	return &Restores{kinds: kinds, log: log, now: time.Now, wake: make(chan struct{}, 1)}
}

// Note adds a restore that the database reports. It is for sqlstore.Config.OnRestored.
func (r *Restores) Note(restored registry.Restored) {
	events, summary := restoredEvents(r.kinds, restored, r.now())
	r.mu.Lock()
	r.events = append(r.events, events...)
	r.problem = summary
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default: // Run has not received the last token yet
	}
}

// Problem returns the text for /readyz, "" if there is none.
func (r *Restores) Problem() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.problem
}

// Acknowledge clears the Problem.
func (r *Restores) Acknowledge() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.problem = ""
}

// Run writes the records to log until ctx ends, and retries failed writes.
func (r *Restores) Run(ctx context.Context, log *audit.Log) error {
	retry := time.NewTicker(restoredRetry)
	defer retry.Stop()
	for {
		r.write(ctx, log)
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		case <-retry.C:
		}
	}
}

// write writes the pending records.
func (r *Restores) write(ctx context.Context, log *audit.Log) {
	r.mu.Lock()
	events := r.events
	r.mu.Unlock()
	for chunk := range slices.Chunk(events, eventsAtOnce) {
		limited, cancel := context.WithTimeout(ctx, restoredRetry)
		err := log.Write(limited, chunk)
		cancel()
		if err != nil {
			if ctx.Err() == nil {
				r.log.Error("the restore of the integrations' database could not be recorded yet", "error", err)
			}
			return
		}
		r.mu.Lock()
		r.events = r.events[len(chunk):]
		r.mu.Unlock()
	}
}

// restoredEvents returns the records of a restore, and a summary.
func restoredEvents(kinds *integration.Kinds, restored registry.Restored, now time.Time) (events []audit.Event, summary string) {
	event := audit.Event{Type: audit.TypeRestore, Time: now.UTC(), RequestID: strings.ToLower(rand.Text()), Method: methodRestored, Outcome: audit.Changed}
	var returned, integrations, lost int
	for _, r := range restored.Reversals {
		d := Reverse(kinds, r.ID, r.Before, r.After)
		e := event
		e.IntegrationID = r.ID
		e.Change = &audit.Change{Before: d.Before, After: d.After, Fields: d.Settings}
		if len(d.Before)+len(d.After) > audit.MaxChange {
			e.Change.Before, e.Change.After = nil, nil
		}
		e.Note = noteOf(r, d)
		events = append(events, e)
		returned += len(d.Returned)
		switch {
		case r.Before == nil:
			integrations++
		case r.After == nil:
			lost++
		}
	}
	found := fmt.Sprintf("%d integration(s) differ: %d grant(s) are in force again, %d integration(s) came back, %d are gone", len(restored.Reversals), returned, integrations, lost)
	if !restored.Known {
		found = "that happened while this broker was stopped, so it does not know what differs"
	}
	if n := len(restored.LostDenials); n > 0 {
		found += fmt.Sprintf("; %d denial(s) are gone: %s", n, listed(restored.LostDenials))
	}
	summary = fmt.Sprintf("the integrations' database has gone back, from revision %d to %d: a backup was restored, or a failover lost changes; %s; compare it with the audit logs (secretbroker audit compare), revoke what has to be revoked, and send SIGHUP to take note",
		restored.Was.Revision, restored.Is.Revision, found)
	event.Note = summary
	return append([]audit.Event{event}, events...), summary
}

// noteOf describes in words how a restore has changed an integration.
func noteOf(r registry.Reversal, d Reversal) string {
	var parts []string
	switch {
	case r.Before == nil:
		parts = append(parts, "the integration came back")
	case r.After == nil:
		parts = append(parts, "the integration is gone")
	case len(d.Settings) == 0:
		parts = append(parts, "it was written at another time, and may have other credentials")
	}
	if len(d.Returned) > 0 {
		parts = append(parts, "grants that are in force again: "+listed(d.Returned))
	}
	if len(d.Lost) > 0 && r.After != nil {
		parts = append(parts, "grants that are gone: "+listed(d.Lost))
	}
	return strings.Join(parts, "; ")
}

// listed joins grants up to maxNote bytes.
func listed(grants []string) string {
	var b strings.Builder
	for i, g := range grants {
		if b.Len()+len(g) > maxNote {
			fmt.Fprintf(&b, " and %d more", len(grants)-i)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(g)
	}
	return b.String()
}
