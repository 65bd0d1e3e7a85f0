// Package asynctest is for tests that observe what other goroutines do: a log
// that is read while it is written, and a wait for a condition. Nothing in it is
// for production.
package asynctest

import (
	"bytes"
	"log/slog"
	"sync"
	"testing"
	"time"
)

// Buffer is a bytes.Buffer that goroutines may use at the same time. The zero
// value is empty.
type Buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer. It does not fail.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// String returns what was written since the last Take.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// Take returns what was written since the last Take, and empties the buffer.
func (b *Buffer) Take() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.buf.Reset()
	return b.buf.String()
}

// Logger returns a logger that writes text to the buffer, from level Info.
func (b *Buffer) Logger() *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

// Eventually waits until the condition holds. It ends the test if it does not
// within a minute, which a busy machine does not need.
func Eventually(t testing.TB, condition string, holds func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	for !holds() {
		select {
		case <-deadline:
			t.Fatal("waited too long for: " + condition)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
