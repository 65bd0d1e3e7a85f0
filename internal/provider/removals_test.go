package provider

import (
	"fmt"
	"testing"
)

// The set remembers removed integrations for thousands of removals, but not for ever.
func TestRemovalsAreBounded(t *testing.T) {
	var r removals
	if r.has("a") {
		t.Error("knows what was never removed")
	}
	for n := range 10 * maxRemovals {
		r.add(fmt.Sprint(n))
		if old := max(0, n-maxRemovals/2+1); !r.has(fmt.Sprint(old)) {
			t.Fatalf("%d is forgotten after %d more", old, n-old)
		}
		if kept := len(r.recent) + len(r.older); kept > maxRemovals {
			t.Fatalf("%d are remembered", kept)
		}
	}
	for _, id := range []int{10*maxRemovals - 1, 10*maxRemovals - maxRemovals/2} {
		r.forget(fmt.Sprint(id))
		if r.has(fmt.Sprint(id)) {
			t.Errorf("%d is back and still taken for removed", id)
		}
	}
}

// A removed integration leaves no state after its last read.
func TestMembersAreDropped(t *testing.T) {
	s := NewSet(SetConfig{})
	for n := range 100 {
		id := fmt.Sprint(n)
		s.Supersede(id, "1")
		s.Remove(id)
	}
	if len(s.states) != 0 {
		t.Errorf("%d states are left", len(s.states))
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
