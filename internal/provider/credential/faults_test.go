package credential

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A store that refuses every credential does not cause one acquisition per read.
func TestRefusedByAStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(t, time.Hour, nil)
		began := time.Now()
		for time.Since(began) < 10*time.Minute {
			h, err := i.Get(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			i.Refused(h)
			time.Sleep(50 * time.Millisecond)
		}
		i.asks(t, 10, 16)
		h, err := i.Get(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * MaxRefusalPause) // a while without refusals
		again := i.Refused(h)
		if !again || !i.Refused(h) { // reported late, by another read
			t.Error("no other credential is to be had")
		}
		h, err = i.Get(t.Context())
		if err != nil || i.Refused(h) {
			t.Errorf("refused again at once, and replaced: %v", err)
		}
	})
}

func TestFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, acquire := range map[string]func(context.Context, *Held[int]) (*Held[int], error){
			"panics":  func(context.Context, *Held[int]) (*Held[int], error) { panic("CANARY") },
			"nothing": func(context.Context, *Held[int]) (*Held[int], error) { return nil, nil }, //nolint:nilnil // that is the fault
		} {
			i := newIssuer(t, time.Hour, func(c *Config[int]) { c.Acquire = acquire })
			if _, err := i.Get(t.Context()); err == nil || err.Error() == "CANARY" {
				t.Errorf("%s: %v", name, err)
			}
		}
		i := newIssuer(t, time.Hour, nil)
		i.takes = time.Hour
		began := time.Now()
		if _, err := i.Get(t.Context()); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 10*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

func TestStopping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(t, time.Hour, nil)
		i.takes = time.Hour
		got := make(chan error)
		go func() {
			_, err := i.Get(t.Context())
			got <- err
		}()
		synctest.Wait()
		i.Close()
		if err := i.tasks.Stop(time.Minute); err != nil {
			t.Error(err)
		}
		if err := <-got; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		if _, err := i.Get(t.Context()); !errors.Is(err, errClosed) {
			t.Errorf("after the end: %v", err)
		}
		i.asks(t, 1, 1)
	})
}
