package credential

import (
	"testing"
	"time"
	"unsafe"

	"github.com/secretbroker/secretbroker/internal/elapsed"
)

// withMonotonic moves only t's monotonic reading, which no test clock can do:
// time.Time is {wall uint64; ext int64; loc}, and ext is the monotonic reading if
// there is one.
func withMonotonic(t time.Time, move time.Duration) time.Time {
	moved := t
	(*struct {
		wall uint64
		ext  int64
	})(unsafe.Pointer(&moved)).ext += int64(move)
	return moved
}

// Neither a suspended machine, whose monotonic clock stopped, nor a wall clock that
// was set back extends a life.
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
