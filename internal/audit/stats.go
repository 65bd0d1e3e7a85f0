package audit

import "time"

// Stats are a Log's figures since it was opened.
type Stats struct {
	// Records counts what was written, markers included, and Batches the group
	// commits that wrote it: Records/Batches is how many shared one write.
	Records, Batches uint64
	// WriteTime is how long those took altogether, fsync included.
	WriteTime time.Duration
	// Failures counts Writes that returned an error: calls that were refused.
	Failures uint64
	// QueueBytes wait for the writer.
	QueueBytes int
	// Copies are the figures of Config.Copies, in their order.
	Copies []CopyStats
}

// CopyStats are one copy's figures.
type CopyStats struct {
	// Sent counts records handed to the connection, Dropped those that were given
	// up because the queue was full, they are too long, or the log was closed.
	Sent, Dropped uint64
	// QueueBytes wait to be sent.
	QueueBytes int
}

// Stats returns the figures of now. It waits for nothing.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	s := Stats{Records: l.records, Batches: l.batches, WriteTime: l.writing, Failures: l.failures.Load(), QueueBytes: len(l.queued.lines)}
	l.mu.Unlock()
	for _, c := range l.copies {
		s.Copies = append(s.Copies, c.stats())
	}
	return s
}

// Head returns the last record's. Kept where the broker's operators cannot
// change it, it proves later that nothing before it was.
func (l *Log) Head() Head {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head
}
