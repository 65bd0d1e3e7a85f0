package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/secretbroker/secretbroker/bench/testbed"
)

// prepare builds the broker.
func (o *options) prepare(ctx context.Context) error {
	if o.broker != "" {
		return nil
	}
	dir, err := os.MkdirTemp("", "abuse-")
	if err != nil {
		return err
	}
	o.built = dir
	o.broker = filepath.Join(dir, "broker")
	build := exec.CommandContext(ctx, "go", "build", "-o", o.broker, "./cmd/secretbroker")
	build.Dir = ".." // the suite runs in its own module's directory
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the broker: %w\n%s", err, out)
	}
	return nil
}

// placed marks a process that place has started.
const placed = "ABUSE_PLACED"

// place chooses the CPUs if the command line does not, and replaces this process by one that
// does not run on the broker's CPU and, if permitted, has a higher priority than other work on
// the machine. Child processes inherit both.
func (o *options) place(args []string) error {
	if os.Getenv(placed) != "" {
		return nil
	}
	o.chooseCPUs()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	command := pinned(o.loadCPUs, append([]string{self}, args...)...)
	command = append(command, "-server-cpus="+o.serverCPUs, "-load-cpus="+o.loadCPUs)
	runtime.LockOSThread()                               // the priority belongs to the thread that calls exec
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, priority) // if permitted
	path, err := exec.LookPath(command[0])
	if err != nil {
		return err
	}
	return unix.Exec(path, command, append(os.Environ(), placed+"=1"))
}

// priority is the niceness of this process, above other work; attackers add
// attackerNiceness.
const (
	priority         = -20
	attackerNiceness = 10
)

// chooseCPUs gives the first CPU to the broker and the others to everything else. If there is
// only one, they share it.
func (o *options) chooseCPUs() {
	var cpus []string
	for _, cpu := range testbed.CPUs(testbed.Available()) {
		cpus = append(cpus, strconv.Itoa(cpu))
	}
	if len(cpus) < 2 {
		return
	}
	o.serverCPUs = cmp.Or(o.serverCPUs, cpus[0])
	o.loadCPUs = cmp.Or(o.loadCPUs, strings.Join(cpus[1:], ","))
}

// cleanUp removes the built binary.
func (o *options) cleanUp() {
	if o.built != "" {
		_ = os.RemoveAll(o.built)
	}
}
