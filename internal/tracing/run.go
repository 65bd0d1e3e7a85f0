package tracing

import (
	"context"
	"errors"
	"time"
)

// The durations in sending.
const (
	// gatherTime is how long spans wait for more spans.
	gatherTime = time.Second
	// exportTime limits one Export.
	exportTime = 10 * time.Second
	// firstPause is the pause before the first retry. It doubles with each retry up to
	// maxPause. After retryTime the spans are dropped.
	firstPause = time.Second
	maxPause   = 30 * time.Second
	retryTime  = time.Minute
	// flushTime limits sending at the end.
	flushTime = 3 * time.Second
	// complaintPause is the minimum time between two lines in the log.
	complaintPause = time.Minute
)

// Run sends spans until ctx ends, and then the remaining ones for at most 3 s. All traced
// calls should have ended by then.
func (t *Tracer) Run(ctx context.Context) error {
	bound, cancel := outlast(ctx, flushTime)
	defer cancel()
	for {
		batch := t.gather(ctx)
		if len(batch) == 0 {
			t.complained = time.Time{} // log the losses now
			t.complain(time.Now(), nil)
			return nil // ctx has ended and the queue is empty
		}
		t.deliver(ctx, bound, batch)
		t.queued.Add(-int64(len(batch)))
		t.complain(time.Now(), nil)
	}
}

// outlast returns a context that ends d after ctx.
func outlast(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	later, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			cancel()
		case <-later.Done():
		}
	})
	return later, func() { stop(); cancel() }
}

// gather waits for the first call, and then until the batch is full or gatherTime has passed.
// It returns no spans only if ctx has ended and the queue is empty.
func (t *Tracer) gather(ctx context.Context) (batch []Span) {
	select {
	case c := <-t.queue:
		batch = append(batch, c.spans...)
	case <-ctx.Done():
	}
	timer := time.NewTimer(gatherTime)
	defer timer.Stop()
	for len(batch) < maxBatch {
		select {
		case c := <-t.queue:
			batch = append(batch, c.spans...)
			continue
		default:
		}
		if ctx.Err() != nil {
			break
		}
		select {
		case c := <-t.queue:
			batch = append(batch, c.spans...)
		case <-timer.C:
			return batch
		case <-ctx.Done():
		}
	}
	return batch
}

// deliver exports a batch, with retries for a limited time. After ctx has ended it tries only
// once more, and not beyond the end of bound.
func (t *Tracer) deliver(ctx, bound context.Context, batch []Span) {
	begin := time.Now()
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		last := ctx.Err() != nil
		rejected, err := t.export(bound, batch)
		if err == nil {
			t.sent.Add(uint64(len(batch) - rejected)) //nolint:gosec // export limits it
			t.rejected.Add(uint64(rejected))          //nolint:gosec // export limits it
			return
		}
		t.complain(time.Now(), err)
		again, ok := errors.AsType[*RetryError](err)
		if ok {
			pause = max(pause, again.After)
		}
		if !ok || last || time.Since(begin)+pause > retryTime {
			t.unsent.Add(uint64(len(batch)))
			return
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done(): // one last attempt
			timer.Stop()
		}
	}
}

// export makes one Export in limited time. It returns at most len(batch) rejected spans.
func (t *Tracer) export(ctx context.Context, batch []Span) (rejected int, err error) {
	ctx, cancel := context.WithTimeout(ctx, exportTime)
	defer cancel()
	rejected, err = t.exporter.Export(ctx, batch)
	return max(0, min(rejected, len(batch))), err
}

// complain logs lost spans and failed Exports, at most once per complaintPause. The metrics
// count all of them.
func (t *Tracer) complain(now time.Time, err error) {
	s := t.Stats()
	lost := s.Overflown + s.Unsent + s.Rejected
	if err == nil && lost == t.told || !t.complained.IsZero() && now.Sub(t.complained) < complaintPause {
		return
	}
	t.complained = now
	args := []any{"spans_lost", lost - t.told, "spans_waiting", s.Queued}
	if err != nil {
		args = append(args, "error", err)
	}
	t.told = lost
	t.log.Warn("cannot send traces to the collector; calls are not affected", args...)
}
