package hardening

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// nobody is the user of test processes that must not run as root.
const nobody = 65534

// The tests start this binary again, in a role that the environment selects, and harden
// that process.
const roleVariable = "HARDENING_TEST_ROLE"

var roles = map[string]func() error{
	"plain":    func() error { return rest(nil) },
	"hardened": func() error { return rest(Apply(Config{})) },
	"locked":   func() error { return rest(Apply(Config{LockMemory: true})) },
	"limited": func() error {
		if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: 64 << 10, Max: 64 << 10}); err != nil {
			return err
		}
		return rest(Apply(Config{LockMemory: true}))
	},
	"spy on plain":    func() error { return spy("plain") },
	"spy on hardened": func() error { return spy("hardened") },
	"plain abort":     func() error { return abort(nil) },
	"hardened abort":  func() error { return abort(Apply(Config{})) },
}

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		if err := roles[role](); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// secretNumber is the number that spies try to read.
var secretNumber = uint64(0x5ec4e7)

// rest prints the address of the secret and waits until stdin is closed.
func rest(err error) error {
	if err != nil {
		return err
	}
	fmt.Printf("ready %x\n", uintptr(unsafe.Pointer(&secretNumber)))
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func abort(err error) error {
	if err != nil {
		return err
	}
	// Fails if hardening has lowered the hard limit.
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
	if err := unix.Kill(os.Getpid(), unix.SIGABRT); err != nil {
		return err
	}
	return unix.Pause()
}

// spy tries to read a child's secret. Normally a parent of the same user may.
func spy(role string) error {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	var at int64
	if _, err := fmt.Fscanf(bufio.NewReader(out), "ready %x\n", &at); err != nil {
		return err
	}
	fmt.Println("memory:", outcome(readNumber(cmd.Process.Pid, at)))
	err = unix.PtraceAttach(cmd.Process.Pid)
	fmt.Println("trace:", outcome(err))
	if err == nil {
		_ = cmd.Process.Kill()
	}
	_ = in.Close()
	_ = cmd.Wait()
	return nil
}

func outcome(err error) string {
	switch {
	case err == nil:
		return "allowed"
	case errors.Is(err, os.ErrPermission):
		return "refused"
	default:
		return err.Error()
	}
}

func readNumber(pid int, at int64) error {
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return err
	}
	defer mem.Close()
	var b [8]byte
	if _, err := mem.ReadAt(b[:], at); err != nil {
		return err
	}
	if *(*uint64)(unsafe.Pointer(&b)) != secretNumber {
		return errors.New("something else was read")
	}
	return nil
}

// play returns a process in a role. With asNobody, it runs as the user nobody if the
// test runs as root.
func play(t *testing.T, role string, asNobody bool) *exec.Cmd {
	t.Helper()
	exe, err := os.Open("/proc/self/exe") // the user nobody cannot access go test's directory
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { exe.Close() })
	cmd := exec.CommandContext(t.Context(), "/proc/self/fd/3")
	cmd.ExtraFiles = []*os.File{exe}
	cmd.Env = append(os.Environ(), roleVariable+"="+role, "GOTRACEBACK=crash")
	cmd.Dir = t.TempDir()
	if asNobody && os.Getuid() == 0 {
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	return cmd
}

func TestOthersCannotReadMemory(t *testing.T) {
	run := func(role string) string {
		out, err := play(t, role, true).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", role, err, out)
		}
		return string(out)
	}
	if out := run("spy on plain"); out != "memory: allowed\ntrace: allowed\n" {
		t.Skipf("this machine forbids it anyway: %s", out)
	}
	if out := run("spy on hardened"); out != "memory: refused\ntrace: refused\n" {
		t.Errorf("a hardened process:\n%s", out)
	}
}

func TestNoCoreDump(t *testing.T) {
	run := func(role string) (dumped bool, files int) {
		cmd := play(t, role, false)
		var status *exec.ExitError
		if err := cmd.Run(); !errors.As(err, &status) {
			t.Fatalf("%s: %v", role, err)
		}
		entries, err := os.ReadDir(cmd.Dir)
		if err != nil {
			t.Fatal(err)
		}
		ws := status.Sys().(syscall.WaitStatus)
		if !ws.Signaled() {
			t.Fatalf("%s: ended with %v, not by a signal", role, ws)
		}
		return ws.CoreDump(), len(entries)
	}
	if dumped, files := run("hardened abort"); dumped || files > 0 {
		t.Errorf("a hardened process: dumped %v, %d files", dumped, files)
	}
	if dumped, _ := run("plain abort"); !dumped {
		t.Skip("this machine makes no core dumps anyway")
	}
}

func TestLockMemory(t *testing.T) {
	locked := func(role string, asNobody bool) (string, error) {
		cmd := play(t, role, asNobody)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		said, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		in.Close()
		err = cmd.Wait()
		_, amount, _ := bytes.Cut(status, []byte("VmLck:"))
		amount, _, _ = bytes.Cut(amount, []byte("\n"))
		return said + strings.TrimSpace(string(amount)), err
	}
	t.Run("impossible", func(t *testing.T) {
		said, err := locked("limited", true)
		if err == nil || !strings.Contains(said, "memory.lock") || !strings.Contains(said, "CAP_IPC_LOCK") || !strings.Contains(said, "RLIMIT_MEMLOCK") {
			t.Errorf("%v: %s", err, said)
		}
	})
	t.Run("not asked for", func(t *testing.T) {
		if said, err := locked("hardened", false); err != nil || !strings.HasSuffix(said, "\n0 kB") {
			t.Errorf("%v: %s", err, said)
		}
	})
	t.Run("asked for", func(t *testing.T) {
		if may, err := mayLockAll(); err != nil || !may {
			t.Skipf("this user may not lock memory (%v)", err)
		}
		if raceEnabled {
			t.Skip("the race detector's memory cannot be locked")
		}
		if said, err := locked("locked", false); err != nil || strings.HasSuffix(said, "\n0 kB") {
			t.Errorf("%v: %s", err, said)
		}
	})
}
