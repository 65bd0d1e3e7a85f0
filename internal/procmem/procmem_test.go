package procmem

import (
	"errors"
	"os"
	"runtime"
	"testing"
)

// Count finds every copy, and none in its own memory.
func TestCount(t *testing.T) {
	masked := Mask([]byte("what the test has planted"))
	other := Mask([]byte("what it has not planted at all"))
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
	before := count() // the literal may have been copied to a stack
	planted := make([][]byte, 5)
	for i := range planted {
		planted[i] = Mask(masked)
	}
	if n := count() - before; n != len(planted) {
		t.Errorf("%d copies are found, want %d", n, len(planted))
	}
	for _, b := range planted {
		clear(b)
	}
	if n := count() - before; n != 0 {
		t.Errorf("%d copies are found after they were overwritten", n)
	}
	runtime.KeepAlive(planted)
}
