package budget

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
)

// TestReserve: accounts that use much leave room for small ones.
func TestReserve(t *testing.T) {
	const total = 1024
	b := New(total)
	for i := range 8 {
		a := b.Account(fmt.Sprint(i))
		for a.Reserve(8) {
			if a.used > total/accountShare/4*3 {
				t.Fatalf("one account has %d of %d", a.used, total)
			}
		}
	}
	if used := b.Stats().Used; used < total/4*3-8 || used > total-total/smallShare {
		t.Errorf("%d of %d are used", used, total)
	}
	quiet := b.Account("quiet")
	for range 4 {
		if !quiet.Reserve(total / smallShare / 4) {
			t.Error("an account that uses little is refused")
		}
	}
	if quiet.Reserve(1) {
		t.Error("it goes on beyond the reserve")
	}
	if got := b.Stats(); got.Refused != 9 || got.Total != total {
		t.Errorf("%+v", got)
	}
}

// TestLargerThanItsShare: an account that uses nothing can reserve all that is free.
func TestLargerThanItsShare(t *testing.T) {
	a := New(1024).Account("a")
	if !a.Reserve(1000) || a.Reserve(1) {
		t.Error("not the first alone")
	}
	a.Release(1000)
	if a.Reserve(1025) {
		t.Error("more than there is")
	}
}

// TestCharge: Charge returns false for accounts that use much, and for no others.
func TestCharge(t *testing.T) {
	b := New(1024)
	much, other, little := b.Account("much"), b.Account("other"), b.Account("little")
	if !much.Charge(512) || much.Charge(1) {
		t.Error("an account's share")
	}
	much.Release(1)
	if !other.Charge(384) || other.Charge(1) || much.Charge(0) {
		t.Error("the whole")
	}
	if !little.Charge(32) || little.Charge(1) {
		t.Error("an account that uses little")
	}
}

// TestAccountsAreForgotten: the Budget removes accounts that are closed and use nothing.
func TestAccountsAreForgotten(t *testing.T) {
	b := New(1024)
	a := b.Account("a")
	if b.Account("a") != a {
		t.Error("two accounts of one name")
	}
	a.Charge(5)
	a.Close()
	a.Close()
	if len(b.accounts) != 1 {
		t.Error("forgotten while in use")
	}
	a.Release(5)
	if len(b.accounts) != 0 || b.Stats().Used != 0 {
		t.Error("not forgotten")
	}
	held := b.Account("held")
	held.Charge(1)
	held.Release(1)
	if len(b.accounts) != 1 {
		t.Error("forgotten while held")
	}
}

// TestWait: waiting reservations are granted in order of arrival, except for accounts at
// their limit, and one whose context ends reserves nothing.
func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(1024)
		a, little := b.Account("a"), b.Account("little")
		if err := a.Wait(t.Context(), 384); err != nil {
			t.Fatal(err)
		}
		b.Account("others").Charge(384)
		var order []string
		var mu sync.Mutex
		wait := func(ctx context.Context, acc *Account, n int64, name string) chan error {
			ended := make(chan error, 1)
			go func() {
				err := acc.Wait(ctx, n)
				mu.Lock()
				defer mu.Unlock()
				order = append(order, name)
				ended <- err
			}()
			synctest.Wait()
			return ended
		}
		ctx, cancel := context.WithCancel(t.Context())
		first, gone := wait(t.Context(), a, 100, "first"), wait(ctx, a, 100, "gone")
		second := wait(t.Context(), a, 100, "second")
		if err := <-wait(t.Context(), little, 32, "little"); err != nil {
			t.Error(err)
		}
		cancel()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("gave up: %v", err)
		}
		if n := b.Stats().Waiting; n != 2 {
			t.Errorf("%d wait", n)
		}
		a.Release(140)
		if err := <-first; err != nil {
			t.Error(err)
		}
		synctest.Wait()
		a.Release(100)
		if err := <-second; err != nil {
			t.Error(err)
		}
		if fmt.Sprint(order) != "[little gone first second]" {
			t.Error(order)
		}
		if a.used != 384-140-100+200 || b.Stats().Used != a.used+384+32 {
			t.Errorf("%d are used, %+v", a.used, b.Stats())
		}
	})
}

func TestConcurrentUse(t *testing.T) {
	b := New(1 << 20)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var users sync.WaitGroup
	for i := range 16 {
		users.Go(func() {
			for n := range 500 {
				a := b.Account(fmt.Sprint((i + n) % 4))
				size := int64(1+i) << 12
				switch n % 3 {
				case 0:
					if a.Wait(ctx, size) == nil {
						a.Release(size)
					}
				case 1:
					if a.Reserve(size) {
						a.Release(size)
					}
				default:
					a.Charge(size)
					a.Release(size)
				}
				a.Close()
			}
			cancel() // the others give up
		})
	}
	users.Wait()
	if got := b.Stats(); got.Used != 0 || got.Waiting != 0 || len(b.accounts) != 0 {
		t.Errorf("%+v, %d accounts are left", got, len(b.accounts))
	}
}
