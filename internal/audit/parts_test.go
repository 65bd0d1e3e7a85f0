package audit

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/secretbroker/secretbroker/internal/audit/chain"
)

// TestLargeBatchIsWrittenInParts: the writer keeps memory for one part of chained lines, the
// chain continues from part to part, and an error in a part fails its Writes and later ones.
func TestLargeBatchIsWrittenInParts(t *testing.T) {
	for name, last := range map[string]allowance{
		"all parts are written":  {everything, nil},
		"the last part fails":    {0, errors.New("no space left on device")},
		"the last part is short": {100, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGate()
				l := New(g)
				first := write(t.Context(), l, "first") // the writer is stuck in it
				const writes, parts = 9, 3
				var waiting []chan error
				for range writes {
					done := make(chan error, 1)
					waiting = append(waiting, done)
					go func() {
						done <- l.Write(t.Context(), []Event{{RequestID: "r", Connector: strings.Repeat("x", maxPart*2/5)}})
					}()
					synctest.Wait()
				}
				g.let <- allowance{everything, nil}
				if err := <-first; err != nil {
					t.Error(err)
				}
				for range parts - 1 {
					g.let <- allowance{everything, nil}
				}
				synctest.Wait()
				if len(waiting[0]) != 0 {
					t.Error("a Write has returned before its batch was written")
				}
				g.let <- last
				for i, done := range waiting {
					failed := <-done != nil
					if want := last.bytes < everything && i >= writes*(parts-1)/parts; failed != want {
						t.Errorf("Write %d failed: %v", i, failed)
					}
				}
				if cap(l.out) > 2*maxPart {
					t.Errorf("the writer keeps %d bytes", cap(l.out))
				}
				close(g.let) // let the writer end: every write is empty
				_ = l.Close()
				if last.bytes == everything {
					if v := verifyText(t, chain.Head{}, g.String()); v.Break != "" || v.Records != writes+1 {
						t.Errorf("%+v", v)
					}
				}
			})
		})
	}
}
