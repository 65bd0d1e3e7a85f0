package resolve

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// TestLink: every secret has one chain, with all of its items and no others.
func TestLink(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{0, 1, 2, 9, 64, 128, 129, 1000} {
		for _, different := range []int{1, 3, n + 1} {
			t.Run(fmt.Sprintf("%d items of %d secrets", n, different), func(t *testing.T) {
				items := make([]item, n)
				want := make(map[secret.Ref][]int)
				for i := range items {
					s := random.IntN(different)
					// Some secrets have the same name, and some differ in one part only.
					items[i].ref = secret.Ref{Store: fmt.Sprint("s", s%2), Name: fmt.Sprint("n", s/4), Version: fmt.Sprint("v", s/2%2), Key: fmt.Sprint("k", i%3)}
					if i%10 == 9 {
						items[i].err = errDenied // for instance
						continue
					}
					want[items[i].ref.Secret()] = append(want[items[i].ref.Secret()], i)
				}
				firsts := link(items, nil)
				if len(firsts) != len(want) || !slices.IsSorted(firsts) {
					t.Fatalf("firsts %v of %d secrets", firsts, len(want))
				}
				for _, first := range firsts {
					chain := []int{first}
					for i := items[first].next; i != 0; i = items[i].next {
						chain = append(chain, i)
					}
					slices.Sort(chain)
					if of := want[items[first].ref.Secret()]; !slices.Equal(chain, of) {
						t.Fatalf("chain %v, want %v", chain, of)
					}
				}
			})
		}
	}
}

// TestItemsAreUsedAgain: calls return the memory of their items to the pool, including calls
// with the maximum number of references.
func TestItemsAreUsedAgain(t *testing.T) {
	for _, n := range []int{1, 64, 128} {
		items := make([]item, 0, 1)
		items = slices.Grow(items, n)
		if cap(items) > maxKept {
			t.Errorf("%d items have capacity %d and are not kept", n, cap(items))
		}
	}
}
