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
	build := exec.CommandContext(ctx, "go", "build", "-o", o.broker, "./cmd/broker")
	build.Dir = ".." // this module is run from its own directory
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the broker: %w\n%s", err, out)
	}
	return nil
}

// placed marks a process that place has started.
const placed = "ABUSE_PLACED"

// place chooses the CPUs where the command line does not, and replaces this process
// by one that is off the broker's CPU and, where that is allowed, goes before other
// work of the machine. What the process starts inherits both.
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
	runtime.LockOSThread()                               // the priority is the thread's that goes on as the process
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, priority) // if it is allowed
	path, err := exec.LookPath(command[0])
	if err != nil {
		return err
	}
	return unix.Exec(path, command, append(os.Environ(), placed+"=1"))
}

// priority goes before the work of others, as the kernel's niceness; attackers have
// attackerNiceness more.
const (
	priority         = -20
	attackerNiceness = 10
)

// chooseCPUs gives the broker the first CPU and everything else the others. Where
// there is only one they share it.
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

// cleanUp removes what was built.
func (o *options) cleanUp() {
	if o.built != "" {
		_ = os.RemoveAll(o.built)
	}
}
