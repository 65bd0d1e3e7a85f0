package audit

import (
	"time"

	"github.com/secretbroker/secretbroker/internal/audit/chain"
	"github.com/secretbroker/secretbroker/internal/audit/syslog"
)

// Stats are the counters of a Log since it was opened.
type Stats struct {
	// Records counts the written records, including segment headers, and Batches the
	// commits: Records/Batches is the average number of records per commit.
	Records, Batches uint64
	// WriteTime is the total duration of the commits, including fsync.
	WriteTime time.Duration
	// Failures counts Writes that returned an error: calls that were refused.
	Failures uint64
	// QueueBytes is the size of the queue, in bytes.
	QueueBytes int
	// Copies are the counters of Config.Copies, in their order.
	Copies []syslog.Stats
}

// Stats returns the current counters. It does not wait for the writer.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	s := Stats{Records: l.records, Batches: l.batches, WriteTime: l.writing, Failures: l.failures.Load(), QueueBytes: len(l.queued.lines)}
	l.mu.Unlock()
	for _, c := range l.copies {
		s.Copies = append(s.Copies, c.Stats())
	}
	return s
}

// Head returns the head of the last record. Stored where the broker's operators cannot
// change it, it later proves that no record up to it was changed.
func (l *Log) Head() chain.Head {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head
}
