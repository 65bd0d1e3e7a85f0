package app

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/config"
	"github.com/secretbroker/secretbroker/internal/devmode"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Tests start this binary under other names as separate processes.
// TestMain lists them.

// watchedBroker is the broker's main, but that it collects its garbage when it is
// told to, and that the process stays to be looked at when main would have ended
// it.
func watchedBroker() {
	watchLog(func() { fmt.Println("ended with", run()) })
}

// bareBroker is a watchedBroker that is not hardened, for users who are not root
// and so could not look into it.
func bareBroker() {
	watchLog(func() {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		cfg, err := config.Load(os.Args[len(os.Args)-1])
		if err == nil {
			err = serve(ctx, cfg, slog.New(slog.NewTextHandler(os.Stderr, nil)), process{})
		}
		code := exitOK
		if err != nil {
			code = exitFailure
		}
		fmt.Println("ended with", code)
	})
}

func watchLog(broker func()) {
	go broker()
	commands := bufio.NewScanner(os.Stdin)
	for commands.Scan() {
		for range 3 { // what lies in a sync.Pool survives one
			runtime.GC()
		}
		fmt.Println("collected")
	}
}

// crashingBroker panics where values are at hand.
func crashingBroker() {
	text := os.Args[1]
	os.Args[1] = ""
	s := secret.New("v1", time.Time{}, time.Time{}, []byte(`{"k":"`+text+`"}`))
	v, err := s.Select("k")
	if err != nil {
		panic(err)
	}
	crash(s, v, v.Reveal(), v.RevealBytes(), &text)
}

//go:noinline
func crash(s *secret.Secret, v secret.Value, text string, b []byte, at *string) {
	if len(text) == len(b) {
		panic(fmt.Errorf("fault at %p: %v %+v %#v %x", at, v, s, *s, v))
	}
}

// child is a watchedBroker on development mode's configuration. The Key Vault is
// the test's.
type child struct {
	*devmode.Environment
	*client.Client
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines *bufio.Reader // of its standard output
	log   *asynctest.Buffer
	read  chan struct{} // closed when all of its log has been read
}

var readyLine = regexp.MustCompile(`msg=ready listen=(\S+)`)

// startChild starts a broker with those secrets. prepare, if not nil, may change
// files and command before.
func startChild(t *testing.T, secrets string, prepare func(*child) error) *child {
	t.Helper()
	c, ready := runChild(t, secrets, prepare)
	addr, ok := <-ready
	if !ok {
		t.Fatalf("the broker has not started:\n%s", c.log)
	}
	var err error
	c.Client, err = client.New(client.Config{
		Addrs: []string{addr}, CAFile: c.CAFile, CertFile: c.Worker.CertFile, KeyFile: c.Worker.KeyFile, MaxAttempts: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Client.Close() })
	return c
}

// runChild runs a broker. ready gets its address, or is closed without one if it
// ends before.
func runChild(t *testing.T, secrets string, prepare func(*child) error) (c *child, ready <-chan string) {
	t.Helper()
	env := newEnvironment(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c = &child{Environment: env, log: &asynctest.Buffer{}, read: make(chan struct{})}
	c.cmd = exec.CommandContext(t.Context(), exe)
	c.cmd.Args = []string{"watched-broker", "serve", "--log-level=debug", "--config", env.ConfigFile}
	c.cmd.Env = os.Environ()
	if prepare == nil {
		prepare = func(*child) error { return nil }
	}
	stdin, err1 := c.cmd.StdinPipe()
	stdout, err2 := c.cmd.StdoutPipe()
	stderr, err3 := c.cmd.StderrPipe()
	if err := errors.Join(err1, err2, err3, replace(env.SecretsFile, secrets), prepare(c), c.cmd.Start()); err != nil {
		t.Fatal(err)
	}
	c.stdin, c.lines = stdin, bufio.NewReader(stdout)
	addr := make(chan string, 1)
	go func() {
		defer close(c.read)
		defer close(addr)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			fmt.Fprintln(c.log, lines.Text())
			if m := readyLine.FindStringSubmatch(lines.Text()); m != nil {
				addr <- m[1]
			}
		}
	}()
	t.Cleanup(func() { c.end() })
	return c, addr
}

// collect makes the broker collect its garbage.
func (c *child) collect(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(c.stdin, "collect\n"); err != nil {
		t.Fatal(err)
	}
	c.expect(t, "collected\n")
}

func (c *child) expect(t *testing.T, want string) {
	t.Helper()
	if line, err := c.lines.ReadString('\n'); line != want {
		t.Fatalf("the broker says %q, %v; want %q\n%s", line, err, want, c.log)
	}
}

func (c *child) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := c.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// end waits until the process has ended, which it does now if not before.
func (c *child) end() *os.ProcessState {
	_ = c.stdin.Close()
	<-c.read
	_ = c.cmd.Wait()
	return c.cmd.ProcessState
}

// peeking tries to read another process's memory and says what came of it.
func peeking() {
	f, err := os.Open("/proc/" + os.Args[1] + "/mem")
	switch {
	case err == nil:
		_ = f.Close()
		fmt.Print("allowed")
	case errors.Is(err, os.ErrPermission):
		fmt.Print("refused")
	default:
		fmt.Print(err)
	}
}
