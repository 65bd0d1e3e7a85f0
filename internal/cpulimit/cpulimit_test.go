package cpulimit

import (
	"math"
	"os"
	"runtime"
	"testing"
	"testing/fstest"
)

func TestProcessors(t *testing.T) {
	for _, tt := range []struct {
		cpus  int
		quota float64
		want  int
	}{
		{1, math.Inf(1), 2},
		{8, math.Inf(1), 9},
		{2, 0.5, 2}, // with a quota, Go counts at least two CPUs
		{2, 1, 2},
		{2, 1.5, 3},
		{1, 3, 2},
		{4, 3.5, 5},
	} {
		if got := processors(tt.cpus, tt.quota); got != tt.want {
			t.Errorf("%d CPUs, quota %v: %d processors, want %d", tt.cpus, tt.quota, got, tt.want)
		}
	}
}

// TestAddProcessor: CPUs does not change, and the environment takes precedence.
func TestAddProcessor(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	cpus := CPUs()
	t.Setenv("GOMAXPROCS", "1")
	AddProcessor()
	if got := runtime.GOMAXPROCS(0); got != cpus {
		t.Errorf("GOMAXPROCS is %d although the environment sets it", got)
	}
	if err := os.Unsetenv("GOMAXPROCS"); err != nil { // t restores it
		t.Fatal(err)
	}
	AddProcessor()
	if got := runtime.GOMAXPROCS(0); got != processors(cpus, Quota()) || CPUs() != cpus {
		t.Errorf("GOMAXPROCS is %d for %d CPUs, before %d", got, CPUs(), cpus)
	}
}

func TestQuota(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	for _, tt := range []struct {
		name  string
		files fstest.MapFS
		want  float64
	}{
		{"nothing", fstest.MapFS{}, math.Inf(1)},
		{"its own", fstest.MapFS{"proc/self/cgroup": file("0::/a/b\n"), "sys/fs/cgroup/a/b/cpu.max": file("50000 100000\n")}, 0.5},
		{"above it", fstest.MapFS{"proc/self/cgroup": file("1:cpu:/x\n0::/a/b\n"), "sys/fs/cgroup/a/b/cpu.max": file("max 100000\n"), "sys/fs/cgroup/a/cpu.max": file("150000 100000\n")}, 1.5},
		{"a container's", fstest.MapFS{"proc/self/cgroup": file("0::/\n"), "sys/fs/cgroup/cpu.max": file("200000 100000\n")}, 2},
		{"none", fstest.MapFS{"proc/self/cgroup": file("0::/\n"), "sys/fs/cgroup/cpu.max": file("max 100000\n")}, math.Inf(1)},
		{"odd", fstest.MapFS{"proc/self/cgroup": file("0::/\n"), "sys/fs/cgroup/cpu.max": file("0 0\n")}, math.Inf(1)},
	} {
		if got := quotaIn(tt.files); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}
