package memlimit

import (
	"math"
	"runtime/debug"
	"testing"
	"testing/fstest"
)

func TestFind(t *testing.T) {
	const mib = 1 << 20
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	share := func(n int64) int64 { return n / 100 * GoPercent }
	v2 := fstest.MapFS{
		"proc/self/cgroup": file("0::/pods/broker\n"), "sys/fs/cgroup/pods/broker/memory.max": file("536870912\n"),
		"sys/fs/cgroup/pods/memory.max": file("268435456\n"), "sys/fs/cgroup/memory.max": file("max\n"),
	}
	v1 := fstest.MapFS{
		"proc/self/cgroup": file("5:cpu:/\n4:memory:/docker/abc\n0::/\n"), "sys/fs/cgroup/memory/memory.limit_in_bytes": file("536870912\n"),
	}
	for _, tt := range []struct {
		name    string
		root    fstest.MapFS
		gomem   int64
		setting int64
		want    Limit
	}{
		{"none", fstest.MapFS{}, math.MaxInt64, 0, Limit{}},
		{"GOMEMLIMIT", v2, 100 * mib, 50 * mib, Limit{100 * mib, "GOMEMLIMIT"}},
		{"version 2, above it", v2, math.MaxInt64, 0, Limit{share(256 * mib), "the cgroup's limit"}},
		{"version 1, in a container", v1, math.MaxInt64, 0, Limit{share(512 * mib), "the cgroup's limit"}},
		{"a lower setting", v1, math.MaxInt64, 200 * mib, Limit{share(200 * mib), "memory.limit"}},
		{"a higher setting", v1, math.MaxInt64, 600 * mib, Limit{share(512 * mib), "the cgroup's limit"}},
		{"a setting alone", fstest.MapFS{"proc/self/cgroup": file("odd\n0::/\n")}, math.MaxInt64, 600 * mib, Limit{share(600 * mib), "memory.limit"}},
		{"version 1 without", fstest.MapFS{"proc/self/cgroup": file("4:memory:/\n"), "sys/fs/cgroup/memory/memory.limit_in_bytes": file("9223372036854771712\n")}, math.MaxInt64, 0, Limit{}},
		{"version 2 without", fstest.MapFS{"proc/self/cgroup": file("0::/\n"), "sys/fs/cgroup/memory.max": file("max\n")}, math.MaxInt64, 0, Limit{}},
	} {
		if got := find(tt.root, tt.gomem, tt.setting); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

// TestApply checks that Apply sets the limit and the target, and does not override GOGC.
func TestApply(t *testing.T) {
	limit, percent := debug.SetMemoryLimit(-1), debug.SetGCPercent(100)
	defer func() { debug.SetMemoryLimit(limit); debug.SetGCPercent(percent) }()

	t.Setenv("GOGC", "") // restores it afterwards
	debug.SetMemoryLimit(1 << 40)
	if l := Apply(0); l.Bytes != 1<<40 || debug.SetMemoryLimit(-1) != 1<<40 {
		t.Errorf("Go's own limit: %+v", l)
	}
	if got := debug.SetGCPercent(100); got != limitedGC {
		t.Errorf("GC target with a limit: %d", got)
	}
	debug.SetMemoryLimit(math.MaxInt64)
	l := Apply(0) // whatever this machine has
	want := moderateGC
	if l.Bytes > 0 {
		want = limitedGC
	}
	if got := debug.SetGCPercent(100); got != want {
		t.Errorf("GC target with %+v: %d, want %d", l, got, want)
	}
	if l := Apply(1 << 20); l.Source != "memory.limit" || debug.SetMemoryLimit(-1) != l.Bytes {
		t.Errorf("a setting: %+v", l)
	}
	t.Setenv("GOGC", "50")
	debug.SetGCPercent(50)
	Apply(1 << 30)
	if got := debug.SetGCPercent(100); got != 50 {
		t.Errorf("GOGC=50 became %d", got)
	}
}
