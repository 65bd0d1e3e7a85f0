package cpulimit

import (
	"io/fs"
	"math"
	"os"
	"path"
	"strconv"
	"strings"
)

// Quota returns the number of CPUs that the process's cgroup may use, infinity if it has no
// quota. Go rounds a quota up to whole CPUs, and to at least two, so CPUs may be larger.
func Quota() float64 { return quotaIn(os.DirFS("/")) }

// quotaIn returns the quota in a file system. It supports cgroups version 2.
func quotaIn(root fs.FS) float64 {
	quota := math.Inf(1)
	membership, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return quota
	}
	for line := range strings.Lines(string(membership)) {
		group, ok := strings.CutPrefix(strings.TrimSpace(line), "0::/")
		if !ok {
			continue
		}
		for { // the group and all its parents
			if text, err := fs.ReadFile(root, path.Join("sys/fs/cgroup", group, "cpu.max")); err == nil {
				quota = min(quota, parseQuota(string(text)))
			}
			if group == "" || group == "." {
				return quota
			}
			group = path.Dir(group)
		}
	}
	return quota
}

// parseQuota parses a cpu.max file, such as "50000 100000".
func parseQuota(text string) float64 {
	fields := strings.Fields(text)
	if len(fields) != 2 {
		return math.Inf(1)
	}
	runs, err := strconv.ParseFloat(fields[0], 64) // fails for "max", which means no quota
	period, err2 := strconv.ParseFloat(fields[1], 64)
	if err != nil || err2 != nil || runs <= 0 || period <= 0 {
		return math.Inf(1)
	}
	return runs / period
}
