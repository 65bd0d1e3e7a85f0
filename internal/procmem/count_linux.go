package procmem

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	chunk = 4 << 20
	// largest is up to which size a mapping is searched: the race detector's shadow
	// memory is larger and holds no bytes of the program.
	largest = 8 << 30
)

// Count returns how often each of the needles, which are masked, occurs in the
// writable memory of a process, its own not excepted: what Count itself needs is
// out of its sight. The process goes on meanwhile, so that only a process that does
// nothing is counted exactly. It takes the right to trace the process.
func Count(pid int, needles ...[]byte) ([]int, error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, fmt.Errorf("procmem: %w", err)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return nil, fmt.Errorf("procmem: %w", err)
	}
	defer mem.Close()
	// Outside of Go's heap and not in maps, which has been read already.
	scratch, err := unix.Mmap(-1, 0, 2*chunk, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("procmem: mmap: %w", err)
	}
	defer func() { _ = unix.Munmap(scratch) }()

	counts := make([]int, len(needles))
	for line := range strings.Lines(string(maps)) {
		var from, to uint64 // which are beyond the largest int64 for the kernel's page
		var access string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &access); err != nil {
			return nil, fmt.Errorf("procmem: maps: %w", err)
		}
		if !strings.HasPrefix(access, "rw") || to-from > largest {
			continue
		}
		if err := countIn(mem, from, to, scratch, needles, counts); err != nil {
			return nil, err
		}
	}
	return counts, nil
}

func countIn(mem *os.File, from, to uint64, scratch []byte, needles [][]byte, counts []int) error {
	buf, plain := scratch[:chunk], scratch[chunk:]
	longest := 0
	for _, masked := range needles {
		longest = max(longest, len(masked))
	}
	for from < to {
		n, err := mem.ReadAt(buf[:min(chunk, to-from)], int64(from)) //nolint:gosec // user space ends far below
		switch {
		case errors.Is(err, unix.EIO), errors.Is(err, unix.EFAULT): // nothing is mapped any more, or it cannot be read
			return nil
		case err != nil && n == 0:
			return fmt.Errorf("procmem: %w", err)
		}
		next := n                // what begins from there on is counted in the next round
		if uint64(n) < to-from { //nolint:gosec // a length
			next = max(n-longest+1, 1)
		}
		for i, masked := range needles {
			needle := plain[:len(masked)]
			for j, c := range masked {
				needle[j] = ^c
			}
			counts[i] += bytes.Count(buf[:min(next+len(needle)-1, n)], needle)
		}
		from += uint64(next)
	}
	return nil
}
