package audit

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
)

// begin calls Begin with one event.
func begin(l *Log, id string) (Receipt, error) {
	receipt, _, err := l.Begin([]Event{{RequestID: id}})
	return receipt, err
}

// stuckBatch returns a Log whose writer is stuck in the commit of a batch of the given number
// of Writes, after a commit of one.
func stuckBatch(t *testing.T, writes int) (*Log, *gate, []<-chan error) {
	g := newGate()
	l := New(g)
	waiting := []<-chan error{write(t.Context(), l, "first")}
	for i := range writes {
		waiting = append(waiting, write(t.Context(), l, fmt.Sprint(i)))
	}
	g.let <- allowance{everything, nil}
	synctest.Wait()
	return l, g, waiting
}

// TestBeginAlone: after a small batch, Begin waits like Write.
func TestBeginAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, g, waiting := stuckBatch(t, minShared-1)
		done := make(chan error, 1)
		go func() {
			receipt, err := begin(l, "x")
			done <- errors.Join(err, receipt.Wait())
		}()
		synctest.Wait()
		if len(done) != 0 {
			t.Error("Begin did not wait")
		}
		g.let <- allowance{everything, nil}
		g.let <- allowance{everything, nil}
		if err := <-done; err != nil {
			t.Error(err)
		}
		for _, w := range waiting {
			if err := <-w; err != nil {
				t.Error(err)
			}
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestBeginSharesBatch: after a large batch, Begin returns at once, and its Receipt waits
// for the batch that has the events and shares it with other calls.
func TestBeginSharesBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, g, _ := stuckBatch(t, minShared)
		one, err := begin(l, "one")
		other, err2 := begin(l, "other")
		if err := errors.Join(err, err2); err != nil || one == (Receipt{}) || one != other {
			t.Fatalf("receipts %v and %v, %v", one, other, err)
		}
		done := make(chan error, 1)
		go func() { done <- one.Wait() }()
		g.let <- allowance{everything, nil} // the batch before
		synctest.Wait()
		if len(done) != 0 {
			t.Error("the receipt did not wait for its own batch")
		}
		g.let <- allowance{everything, nil}
		if err := errors.Join(<-done, other.Wait()); err != nil {
			t.Error(err)
		}
		// A Begin that comes to an idle writer waits itself.
		late := make(chan Receipt, 1)
		go func() {
			receipt, _ := begin(l, "late")
			late <- receipt
		}()
		synctest.Wait()
		if len(late) != 0 {
			t.Error("a lone Begin did not wait")
		}
		g.let <- allowance{everything, nil}
		if receipt := <-late; receipt != (Receipt{}) {
			t.Error("a lone Begin returned a Receipt")
		}
		if ids, torn := g.lines(); len(ids) != minShared+4 || len(torn) != 0 {
			t.Errorf("lines %q, torn %q", ids, torn)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestBeginFails: the Receipt returns the error of its batch. After a failed commit, Begin
// itself waits and returns the error.
func TestBeginFails(t *testing.T) {
	full := errors.New("no space left on device")
	for name, fail := range map[string]func(l *Log, g *gate) error{
		"nothing is written":            func(_ *Log, g *gate) error { g.let <- allowance{0, full}; return full },
		"a part is written":             func(_ *Log, g *gate) error { g.let <- allowance{250, full}; return full },
		"the file accepts no more data": func(*Log, *gate) error { return errSlow },
		"the log is closed":             func(l *Log, _ *gate) error { return l.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, g, _ := stuckBatch(t, minShared)
				receipt, err := begin(l, "x")
				if err != nil || receipt == (Receipt{}) {
					t.Fatalf("receipt %v, %v", receipt, err)
				}
				if name != "the file accepts no more data" && name != "the log is closed" {
					g.let <- allowance{everything, nil}
				}
				synctest.Wait()
				failures := l.Stats().Failures
				want := fail(l, g)
				if err := receipt.Wait(); err == nil || !errors.Is(err, want) && !errors.Is(want, errStuck) {
					t.Errorf("the receipt returned %v", err)
				}
				synctest.Wait()
				if name == "nothing is written" {
					if l.Stats().Failures == failures {
						t.Error("the failure was not counted")
					}
					again := make(chan error, 1)
					go func() { _, err := begin(l, "again"); again <- err }()
					synctest.Wait()
					g.let <- allowance{0, full}
					if err := <-again; !errors.Is(err, full) {
						t.Errorf("after the failure: %v", err)
					}
				}
				close(g.let) // let the writer end: every write is empty
				_ = l.Close()
			})
		})
	}
}

// TestBeginWhenStuck: after the Writes of a stuck commit have failed, later calls of Begin
// wait themselves and return the reason.
func TestBeginWhenStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, g, _ := stuckBatch(t, minShared)
		receipt, _ := begin(l, "x")
		if err := receipt.Wait(); !errors.Is(err, errSlow) {
			t.Errorf("the receipt returned %v", err)
		}
		results := make(chan error, minShared)
		for i := range cap(results) {
			go func() {
				receipt, err := begin(l, fmt.Sprint("late", i))
				if receipt != (Receipt{}) {
					t.Error("a Begin returned a Receipt")
				}
				results <- err
			}()
		}
		for range cap(results) {
			if err := <-results; !errors.Is(err, errSlow) {
				t.Errorf("a Begin returned %v", err)
			}
		}
		close(g.let) // let the writer end: every write is empty
		_ = l.Close()
	})
}

// TestFailuresAreCountedOnce: a failure counts once, whether the call or its Receipt waits.
func TestFailuresAreCountedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, g, _ := stuckBatch(t, minShared)
		waiting := write(t.Context(), l, "waits")
		receipt, err := begin(l, "does not")
		if err != nil || receipt == (Receipt{}) {
			t.Fatalf("receipt %v, %v", receipt, err)
		}
		g.let <- allowance{everything, nil}
		g.let <- allowance{0, errors.New("no space left on device")}
		if <-waiting == nil || receipt.Wait() == nil {
			t.Error("an event was recorded")
		}
		synctest.Wait()
		if n := l.Stats().Failures; n != 2 {
			t.Errorf("%d failures were counted", n)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestReceiptsAreSmall: a Receipt does not keep the lines of its batch in memory. The
// connection of a client that does not read may keep it for long.
func TestReceiptsAreSmall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, g, _ := stuckBatch(t, minShared)
		receipt, _, err := l.Begin([]Event{{Connector: strings.Repeat("x", 2*maxKept)}})
		if err != nil || receipt == (Receipt{}) {
			t.Fatalf("receipt %v, %v", receipt, err)
		}
		g.let <- allowance{everything, nil}
		g.let <- allowance{everything, nil}
		if err := receipt.Wait(); err != nil {
			t.Error(err)
		}
		_ = write(t.Context(), l, "another")
		g.let <- allowance{everything, nil}
		synctest.Wait()
		if n := cap(receipt.batch.lines); n > 0 {
			t.Errorf("the receipt keeps %d bytes", n)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
}
