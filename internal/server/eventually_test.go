package server

import (
	"testing"
	"time"
)

// eventually waits until what is true: for what a server does in its own time
// after its client knows.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatal("it never came to this: " + what)
		}
	}
}
