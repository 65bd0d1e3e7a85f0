package audit

import (
	"time"

	"github.com/secretbroker/secretbroker/internal/audit/chain"
	"github.com/secretbroker/secretbroker/internal/audit/syslog"
)

// Stats are a Log's figures since it was opened.
type Stats struct {
	// Records counts what was written, segment headers included, and Batches the group
	// commits that wrote it: Records/Batches is how many shared one write.
	Records, Batches uint64
	// WriteTime is how long those took altogether, fsync included.
	WriteTime time.Duration
	// Failures counts Writes that returned an error: calls that were refused.
	Failures uint64
	// QueueBytes wait for the writer.
	QueueBytes int
	// Copies are the figures of Config.Copies, in their order.
	Copies []syslog.Stats
}

// Stats returns the figures of now. It waits for nothing.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	s := Stats{Records: l.records, Batches: l.batches, WriteTime: l.writing, Failures: l.failures.Load(), QueueBytes: len(l.queued.lines)}
	l.mu.Unlock()
	for _, c := range l.copies {
		s.Copies = append(s.Copies, c.Stats())
	}
	return s
}

// Head returns the last record's. Kept where the broker's operators cannot
// change it, it proves later that nothing before it was.
func (l *Log) Head() chain.Head {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head
}
