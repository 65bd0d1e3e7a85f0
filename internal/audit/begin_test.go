package audit

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
)

// begin is Begin of one event.
func begin(l *Log, id string) (Receipt, error) { return l.Begin([]Event{{RequestID: id}}) }

// inCompany makes a Log whose writer is at a batch of so many Writes, the first of
// which it is stuck with.
func inCompany(t *testing.T, writes int) (*Log, *gate, []<-chan error) {
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

// TestBeginAlone: without company Begin is Write.
func TestBeginAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, g, waiting := inCompany(t, company-1)
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

// TestBeginInCompany: Begin returns at once, and its Receipt waits for the batch
// that has the events, which others share.
func TestBeginInCompany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, g, _ := inCompany(t, company)
		one, err := begin(l, "one")
		other, err2 := begin(l, "other")
		if err := errors.Join(err, err2); err != nil || one == (Receipt{}) || one != other {
			t.Fatalf("receipts %v and %v, %v", one, other, err)
		}
		done := make(chan error, 1)
		go func() { done <- one.Wait() }()
		g.let <- allowance{everything, nil} // what was before
		synctest.Wait()
		if len(done) != 0 {
			t.Error("the receipt did not wait for its own batch")
		}
		g.let <- allowance{everything, nil}
		if err := errors.Join(<-done, other.Wait()); err != nil {
			t.Error(err)
		}
		// The company has gone: one that comes later waits by itself.
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
			t.Error("a lone Begin left something to wait for")
		}
		if ids, torn := g.lines(); len(ids) != company+4 || len(torn) != 0 {
			t.Errorf("lines %q, torn %q", ids, torn)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestBeginFails: whatever becomes of the batch, its Receipt tells; and while the
// last write failed, Begin does.
func TestBeginFails(t *testing.T) {
	full := errors.New("no space left on device")
	for name, fail := range map[string]func(l *Log, g *gate) error{
		"nothing is written":     func(_ *Log, g *gate) error { g.let <- allowance{0, full}; return full },
		"a part is written":      func(_ *Log, g *gate) error { g.let <- allowance{250, full}; return full },
		"the file takes no more": func(*Log, *gate) error { return errSlow },
		"the log is closed":      func(l *Log, _ *gate) error { return l.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, g, _ := inCompany(t, company)
				receipt, err := begin(l, "x")
				if err != nil || receipt == (Receipt{}) {
					t.Fatalf("receipt %v, %v", receipt, err)
				}
				if name != "the file takes no more" && name != "the log is closed" {
					g.let <- allowance{everything, nil}
				}
				synctest.Wait()
				failures := l.Stats().Failures
				want := fail(l, g)
				if err := receipt.Wait(); err == nil || !errors.Is(err, want) && !errors.Is(want, errStuck) {
					t.Errorf("the receipt tells %v", err)
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
				close(g.let) // the writer may end: allowances of nothing
				_ = l.Close()
			})
		})
	}
}

// TestBeginWhenStuck: once the Writes were told that the file takes too long, those
// that come while it still does wait by themselves, so that callers are told why.
func TestBeginWhenStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, g, _ := inCompany(t, company)
		receipt, _ := begin(l, "x")
		if err := receipt.Wait(); !errors.Is(err, errSlow) {
			t.Errorf("the receipt tells %v", err)
		}
		told := make(chan error, company)
		for i := range cap(told) {
			go func() {
				receipt, err := begin(l, fmt.Sprint("late", i))
				if receipt != (Receipt{}) {
					t.Error("a Begin left something to wait for")
				}
				told <- err
			}()
		}
		for range cap(told) {
			if err := <-told; !errors.Is(err, errSlow) {
				t.Errorf("a Begin tells %v", err)
			}
		}
		close(g.let) // the writer may end: allowances of nothing
		_ = l.Close()
	})
}

// TestFailuresAreCountedOnce, whether somebody waits in the call or elsewhere.
func TestFailuresAreCountedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, g, _ := inCompany(t, company)
		waiting := write(t.Context(), l, "waits")
		receipt, err := begin(l, "does not")
		if err != nil || receipt == (Receipt{}) {
			t.Fatalf("receipt %v, %v", receipt, err)
		}
		g.let <- allowance{everything, nil}
		g.let <- allowance{0, errors.New("no space left on device")}
		if <-waiting == nil || receipt.Wait() == nil {
			t.Error("something was recorded")
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

// TestReceiptsAreSmall: who keeps a Receipt, as a connection does whose client does not
// read, keeps none of the lines of its group commit.
func TestReceiptsAreSmall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, g, _ := inCompany(t, company)
		receipt, err := l.Begin([]Event{{Connector: strings.Repeat("x", 2*maxKept)}})
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
			t.Errorf("it keeps %d bytes", n)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
}
