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
	// largest is the maximum size of mappings that are searched. The race detector's
	// shadow memory is larger, and contains no bytes of the program.
	largest = 8 << 30
)

// Count returns the number of occurrences of each of the masked needles in the writable
// memory of a process. The process may be the caller's own: Count does not search the
// memory that it uses itself. It does not stop the process, so the result is exact only
// for an idle process. The caller needs permission to trace the process.
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
	// A mapping outside of Go's heap that is not in maps, which has been read already.
	scratch, err := unix.Mmap(-1, 0, 2*chunk, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("procmem: mmap: %w", err)
	}
	defer func() { _ = unix.Munmap(scratch) }()

	counts := make([]int, len(needles))
	for line := range strings.Lines(string(maps)) {
		var from, to uint64 // the kernel's page is beyond the largest int64
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
		case errors.Is(err, unix.EIO), errors.Is(err, unix.EFAULT): // unmapped since, or not readable
			return nil
		case err != nil && n == 0:
			return fmt.Errorf("procmem: %w", err)
		}
		next := n                // occurrences that begin here are counted in the next round
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
