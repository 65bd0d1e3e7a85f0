// Package memlimit finds out how much memory the process may use, and has Go's
// garbage collector keep to it.
//
// It knows nothing of what the memory is used for.
package memlimit

import (
	"io/fs"
	"math"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
)

// Limit is how much memory the process may use.
type Limit struct {
	// Bytes is what Go's heap, stacks and runtime may use, as Go's own soft limit has
	// it; 0 if there is no limit.
	Bytes int64
	// Source says where it comes from, such as "GOMEMLIMIT", for the log.
	Source string
}

const (
	// GoPercent is the part of a cgroup's or configured limit that Go may use: the
	// rest is for what Go does not count, such as the program itself and the buffers
	// of sockets and files, and for what Go needs beyond its soft limit for moments.
	GoPercent = 85
	// limitedGC and moderateGC are the garbage collector's targets (GOGC), with a
	// memory limit, which binds first where memory is short, and without one.
	limitedGC  = 400
	moderateGC = 200
)

// Apply makes Go keep to a memory limit: GOMEMLIMIT if it is set, else the least of
// the cgroup's limit and of setting, in bytes, 0 for none. It also sets the garbage
// collector's target, unless GOGC is set.
func Apply(setting int64) Limit {
	l := find(os.DirFS("/"), debug.SetMemoryLimit(-1), setting)
	if l.Bytes > 0 {
		debug.SetMemoryLimit(l.Bytes)
	}
	if os.Getenv("GOGC") == "" {
		if l.Bytes > 0 {
			debug.SetGCPercent(limitedGC)
		} else {
			debug.SetGCPercent(moderateGC)
		}
	}
	return l
}

// find looks for the limit; gomemlimit is Go's at start.
func find(root fs.FS, gomemlimit, setting int64) Limit {
	if gomemlimit < math.MaxInt64 {
		return Limit{gomemlimit, "GOMEMLIMIT"}
	}
	limit, source := cgroup(root), "the cgroup's limit"
	if setting > 0 && (limit == 0 || setting < limit) {
		limit, source = setting, "memory.limit"
	}
	if limit == 0 {
		return Limit{}
	}
	return Limit{limit / 100 * GoPercent, source}
}

// cgroup returns the least memory limit of the process's cgroup and of those above
// it, 0 if there is none.
func cgroup(root fs.FS) int64 {
	membership, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0
	}
	least := int64(0)
	for line := range strings.Lines(string(membership)) {
		// Each line is ID:CONTROLLERS:/PATH; version 2 has no controllers there.
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		var limit int64
		switch group := strings.TrimPrefix(fields[2], "/"); {
		case fields[0] == "0" && fields[1] == "":
			limit = leastOf(root, "sys/fs/cgroup", group, "memory.max")
		case fields[1] == "memory":
			limit = leastOf(root, "sys/fs/cgroup/memory", group, "memory.limit_in_bytes")
		}
		if limit > 0 && (least == 0 || limit < least) {
			least = limit
		}
	}
	return least
}

// leastOf returns the least limit in the files called name of a cgroup and all
// above it, as far as they can be seen: in a container of version 1 the group's
// path may be the host's, and only the mount's root exists.
func leastOf(root fs.FS, mount, group, name string) int64 {
	least := int64(0)
	for {
		if text, err := fs.ReadFile(root, path.Join(mount, group, name)); err == nil {
			// "max", and in version 1 the largest number of pages, are no limit.
			n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
			if err == nil && n > 0 && n < 1<<60 && (least == 0 || n < least) {
				least = n
			}
		}
		if group == "" || group == "." {
			return least
		}
		group = path.Dir(group)
	}
}
