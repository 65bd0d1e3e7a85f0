package procmem

import (
	"crypto/rand"
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"
)

// Count finds every copy, and none in its own memory.
func TestCount(t *testing.T) {
	// Longer than the registers, which are saved on stacks, and only in its masked form.
	masked, other := []byte(strings.Repeat(rand.Text(), 20)), []byte(strings.Repeat(rand.Text(), 20))
	count := func() int {
		n, err := Count(os.Getpid(), masked, other)
		if errors.Is(err, ErrUnsupported) {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		if n[1] != 0 {
			t.Errorf("%d times what is not there", n[1])
		}
		return n[0]
	}
	planted := make([][]byte, 5)
	for i := range planted {
		planted[i] = Mask(masked)
	}
	if n := count(); n != len(planted) {
		t.Errorf("%d copies are found, want %d", n, len(planted))
	}
	for _, b := range planted {
		clear(b)
	}
	if n := count(); n != 0 {
		t.Errorf("%d copies are found after they were overwritten", n)
	}
	runtime.KeepAlive(planted)
}
