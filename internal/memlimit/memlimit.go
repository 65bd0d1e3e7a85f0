// Package memlimit determines how much memory the process may use, and configures Go's
// garbage collector accordingly.
//
// It does not know what the memory is used for.
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

// Limit is a memory limit of the process.
type Limit struct {
	// Bytes is the limit for Go's heap, stacks and runtime, as for Go's soft memory
	// limit. 0 means no limit.
	Bytes int64
	// Source names the origin of the limit, such as "GOMEMLIMIT", for the log.
	Source string
}

const (
	// GoPercent is the percentage of a cgroup's limit or of the configured limit that Go
	// may use. The rest is for memory that Go does not count, such as the program's code
	// and the kernel's buffers for sockets and files, and for short peaks above Go's soft
	// limit.
	GoPercent = 85
	// limitedGC and moderateGC are the garbage collector's targets (GOGC) with and
	// without a memory limit. With a limit the target can be higher, because the limit
	// makes the garbage collector run when memory becomes scarce.
	limitedGC  = 400
	moderateGC = 200
)

// Apply sets Go's memory limit: to GOMEMLIMIT if it is set, and otherwise to a part of
// the lower of the cgroup's limit and setting. setting is in bytes; 0 means none. Apply
// also sets the garbage collector's target, unless GOGC is set.
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

// find determines the limit. gomemlimit is Go's limit at startup.
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

// cgroup returns the lowest memory limit of the process's cgroup and its ancestors, or 0
// if there is none.
func cgroup(root fs.FS) int64 {
	membership, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0
	}
	least := int64(0)
	for line := range strings.Lines(string(membership)) {
		// Each line is ID:CONTROLLERS:/PATH. With version 2, CONTROLLERS is empty.
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

// leastOf returns the lowest limit in the files called name of a cgroup and its
// ancestors. It skips files that do not exist: in a container with version 1, the path
// may be that on the host, and only the root of the mount exists.
func leastOf(root fs.FS, mount, group, name string) int64 {
	least := int64(0)
	for {
		if text, err := fs.ReadFile(root, path.Join(mount, group, name)); err == nil {
			// "max" and, in version 1, the largest number of pages mean no limit.
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
