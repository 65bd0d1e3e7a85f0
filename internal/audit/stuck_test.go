package audit

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestStuckFailsEveryWrite: a stuck writer fails the waiting Writes and every later one,
// each within a bounded time.
func TestStuckFailsEveryWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		l := New(g)
		background := context.WithoutCancel(t.Context())
		for i := range 4 {
			began := time.Now()
			if err := l.Write(background, []Event{{}}); !errors.Is(err, errSlow) {
				t.Errorf("Write %d: %v", i, err)
			}
			if took := time.Since(began); took > 2*patience {
				t.Errorf("Write %d took %v", i, took)
			}
		}
		last := write(background, l, "last")
		synctest.Wait()
		for range 2 {
			g.let <- allowance{everything, nil}
		}
		if err := errors.Join(<-last, l.Close()); err != nil {
			t.Errorf("after the writes returned: %v", err)
		}
	})
}

// TestWriteTime: Stats.WriteTime adds up the duration of the commits without the idle time.
func TestWriteTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		l := New(g)
		for range 2 {
			done := write(t.Context(), l, "a")
			time.Sleep(300 * time.Millisecond)
			g.let <- allowance{everything, nil}
			if err := <-done; err != nil {
				t.Error(err)
			}
			time.Sleep(time.Second) // the writer is idle
		}
		if took := l.Stats().WriteTime; took != 600*time.Millisecond {
			t.Errorf("writes took %v", took)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
}
