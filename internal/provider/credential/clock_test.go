package credential

import (
	"testing"
	"time"
	"unsafe"

	"github.com/secretbroker/secretbroker/internal/elapsed"
)

// withMonotonic moves t's monotonic reading alone, which no clock of a test can do:
// time.Time is {wall uint64; ext int64; loc}, and ext is the monotonic reading if there
// is one.
func withMonotonic(t time.Time, move time.Duration) time.Time {
	moved := t
	(*struct {
		wall uint64
		ext  int64
	})(unsafe.Pointer(&moved)).ext += int64(move)
	return moved
}

// Neither a machine that was suspended, whose monotonic clock stood still, nor a wall
// clock that was set back makes a life longer.
func TestElapsedGoesByBothClocks(t *testing.T) {
	began := time.Now()
	for name, tc := range map[string]struct {
		wall, monotonic, want time.Duration
	}{
		"both":      {time.Minute, time.Minute, time.Minute},
		"suspended": {8 * time.Hour, time.Second, 8 * time.Hour},
		"set back":  {-time.Hour, time.Minute, time.Minute},
	} {
		now := withMonotonic(began.Add(tc.wall), tc.monotonic-tc.wall)
		if got := elapsed.Between(began, now); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}
