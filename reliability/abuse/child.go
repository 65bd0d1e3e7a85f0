package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// child is a process of this program with a part of the work: goroutines of attackers must
// not delay callers whose latency is measured.
type child struct {
	cmd   *exec.Cmd
	stdin io.Closer
	out   bytes.Buffer // output of an attack
	read  sync.WaitGroup
}

// startChild starts a process with a part and its task. line, if not nil, gets its output.
func startChild(b *bed, niceness int, part string, task any, line func(*json.Decoder) error) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(task)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(b.world.Dir(), part+".json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		return nil, err
	}
	command := append(pinned(b.options.loadCPUs, "nice", "-n", fmt.Sprint(niceness)), self, part, file)
	c := &child{cmd: exec.Command(command[0], command[1:]...)}
	c.cmd.Stderr = os.Stderr
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	c.read.Go(func() {
		if line == nil {
			_, _ = io.Copy(&c.out, out) // an incomplete output does not parse
			return
		}
		for dec := json.NewDecoder(out); line(dec) == nil; {
		}
	})
	return c, nil
}

// stop ends the child and waits for it, for a few seconds at most.
func (c *child) stop() error {
	_ = c.stdin.Close()
	late := time.AfterFunc(15*time.Second, func() { _ = c.cmd.Process.Kill() })
	defer late.Stop()
	c.read.Wait()
	if err := c.cmd.Wait(); err != nil {
		return errors.Join(errors.New("a process of the suite did not end well"), err)
	}
	return nil
}

// calls collects the calls of the well-behaved callers.
type calls struct {
	mu  sync.Mutex
	all []call
}

func (c *calls) take(dec *json.Decoder) error {
	var one call
	if err := dec.Decode(&one); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, one)
	return nil
}

// of returns the calls of a caller that were due in [from, until).
func (c *calls) of(caller string, from, until time.Time) (found []call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, one := range c.all {
		if one.Caller == caller && !one.Due.Before(from) && one.Due.Before(until) {
			found = append(found, one)
		}
	}
	return found
}
