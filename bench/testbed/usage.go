package testbed

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Usage is what a process has used, as Linux counts it; zero elsewhere.
type Usage struct {
	// CPU is user and system time, in steps of 10 ms.
	CPU time.Duration
	// RSS and PeakRSS are resident memory in bytes, now and at most.
	RSS, PeakRSS int64
}

// UsageOf reads what the process has used.
func UsageOf(pid int) Usage {
	var u Usage
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u
	}
	// The fields after the name in parentheses; 14 and 15 are utime and stime, in
	// hundredths of a second.
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	user, _ := strconv.Atoi(fields[11])   // zero, should it be
	system, _ := strconv.Atoi(fields[12]) // something else
	u.CPU = time.Duration(user+system) * 10 * time.Millisecond
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u
	}
	for line := range strings.Lines(string(status)) {
		var kB int64
		switch {
		case strings.HasPrefix(line, "VmRSS:"):
			_, _ = fmt.Sscanf(line, "VmRSS: %d kB", &kB)
			u.RSS = kB << 10
		case strings.HasPrefix(line, "VmHWM:"):
			_, _ = fmt.Sscanf(line, "VmHWM: %d kB", &kB)
			u.PeakRSS = kB << 10
		}
	}
	return u
}
