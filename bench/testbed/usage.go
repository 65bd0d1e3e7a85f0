package testbed

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// Usage is the resource usage of a process on Linux; zero elsewhere.
type Usage struct {
	// CPU is user and system time, in steps of 10 ms.
	CPU time.Duration
	// RSS and PeakRSS are the current and the maximum resident memory in bytes.
	RSS, PeakRSS int64
}

// UsageOf returns the usage of a process.
func UsageOf(pid int) Usage {
	var u Usage
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u
	}
	// The fields after the name in parentheses; 14 and 15 are utime and stime, in
	// hundredths of a second.
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	user, _ := strconv.Atoi(fields[11])   // zero if it is not a number
	system, _ := strconv.Atoi(fields[12]) // as above
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

// Busy returns how long the CPUs of a list such as 0-1,3 have been busy since the machine
// started, for all processes; zero if unknown.
func Busy(cpus string) time.Duration {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	var busy time.Duration
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		number, err := strconv.Atoi(strings.TrimPrefix(fields[0], "cpu"))
		if !strings.HasPrefix(fields[0], "cpu") || err != nil || !listed(cpus, number) {
			continue
		}
		for _, i := range []int{1, 2, 3, 8} { // user, nice, system and steal
			n, _ := strconv.Atoi(fields[i]) // zero if it is not a number
			busy += time.Duration(n) * 10 * time.Millisecond
		}
	}
	return busy
}

// CPUs returns the numbers in a list such as 0-1,3, in order.
func CPUs(list string) []int {
	var numbers []int
	for number := range 1024 {
		if listed(list, number) {
			numbers = append(numbers, number)
		}
	}
	return numbers
}

// Available returns the list of the CPUs that this process may use.
func Available() string {
	data, _ := os.ReadFile("/proc/self/status") // exists on Linux only
	for line := range strings.Lines(string(data)) {
		if list, ok := strings.CutPrefix(line, "Cpus_allowed_list:"); ok {
			return strings.TrimSpace(list)
		}
	}
	return fmt.Sprint("0-", runtime.NumCPU()-1)
}

func listed(cpus string, number int) bool {
	for part := range strings.SplitSeq(cpus, ",") {
		first, last, several := strings.Cut(part, "-")
		if !several {
			last = first
		}
		from, errFrom := strconv.Atoi(first)
		to, errTo := strconv.Atoi(last)
		if errFrom == nil && errTo == nil && from <= number && number <= to {
			return true
		}
	}
	return false
}
