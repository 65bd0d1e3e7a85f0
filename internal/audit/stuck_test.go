package audit

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestStuckFailsEveryWrite: not only those that were there when the writer got
// stuck, but also those that come later, each within a bounded time.
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
			t.Errorf("once it moves again: %v", err)
		}
	})
}
