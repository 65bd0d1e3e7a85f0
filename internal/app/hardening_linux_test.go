package app

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// nobody is the user of the brokers if the tests run as root.
const nobody = 65534

// asNobody makes a command run as the user nobody. It passes the open binary, because nobody
// cannot access the directory in which go test has built it.
func asNobody(t *testing.T, cmd *exec.Cmd) error {
	if os.Getuid() != 0 {
		return nil
	}
	exe, err := os.Open(cmd.Path)
	if err != nil {
		return err
	}
	t.Cleanup(func() { exe.Close() })
	cmd.ExtraFiles = []*os.File{exe}
	cmd.Path = "/proc/self/fd/3"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	return nil
}

// ownedByNobody changes the owner of a broker's files to nobody.
func ownedByNobody(c *child) error {
	if os.Getuid() != 0 {
		return nil
	}
	for dir := c.Dir; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			return err
		}
	}
	return filepath.WalkDir(c.Dir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Chown(path, nobody, nobody))
	})
}

// TestTheProcessIsClosed runs the real "secretbroker serve" as an ordinary user and tries
// to get at its memory as the same user.
func TestTheProcessIsClosed(t *testing.T) {
	peek := func(pid int) string {
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), exe)
		cmd.Args = []string{"peeking", fmt.Sprint(pid)}
		if err := asNobody(t, cmd); err != nil {
			t.Fatal(err)
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	start := func(name string) *child {
		return startChild(t, vaultWith(plant()), func(c *child) error {
			c.cmd.Args[0] = name
			c.cmd.Env = append(c.cmd.Env, "GOTRACEBACK=crash") // which makes a core dump where it may
			c.cmd.Dir = c.Dir
			return errors.Join(ownedByNobody(c), asNobody(t, c.cmd))
		})
	}

	c := start("watched-broker")
	pid := c.cmd.Process.Pid
	if _, err := c.Resolve(t.Context(), request("p", vault+"::sqlserver-db::password")); err != nil {
		t.Errorf("a closed broker does not work: %v", err)
	}
	info, err := os.Stat(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	if uid := info.Sys().(*syscall.Stat_t).Uid; uid != 0 {
		t.Errorf("its memory belongs to user %d: the process is dumpable", uid)
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, core, _ := strings.Cut(string(limits), "Max core file size")
	core, _, _ = strings.Cut(core, "\n")
	if got := strings.Join(strings.Fields(core), " "); got != "0 0 bytes" {
		t.Errorf("RLIMIT_CORE is %s", got)
	}
	if said := peek(pid); said != "refused" {
		t.Errorf("another process of the same user reads its memory: %s", said)
	}
	c.signal(t, syscall.SIGABRT)
	if status := c.end().Sys().(syscall.WaitStatus); status.CoreDump() || !status.Signaled() {
		t.Errorf("ended with %v, dumped %v", status, status.CoreDump())
	}
	if files, _ := filepath.Glob(filepath.Join(c.Dir, "core*")); len(files) > 0 {
		t.Errorf("%v are left", files)
	}

	if said := peek(start("bare-broker").cmd.Process.Pid); said != "allowed" {
		t.Skipf("on this machine the memory of a process that is not hardened cannot be read either: %s", said)
	}
}

// TestMemoryLockIsAskedFor: a broker that is to lock its memory and may not does
// not start, and says what to do.
func TestMemoryLockIsAskedFor(t *testing.T) {
	var limit syscall.Rlimit
	const memlock = 8 // RLIMIT_MEMLOCK
	if err := syscall.Getrlimit(memlock, &limit); err != nil || limit.Cur == ^uint64(0) {
		t.Skipf("memory may be locked here (%v)", err)
	}
	c, ready := runChild(t, vaultWith(plant()), func(c *child) error {
		return errors.Join(edit(c.ConfigFile, "audit:", "memory: {lock: true}\naudit:"), ownedByNobody(c), asNobody(t, c.cmd))
	})
	c.expect(t, "ended with 1\n")
	c.end()
	if _, started := <-ready; started {
		t.Error("it has started all the same")
	}
	if said := c.log.String(); !strings.Contains(said, "CAP_IPC_LOCK") || !strings.Contains(said, "RLIMIT_MEMLOCK") {
		t.Errorf("it says: %s", said)
	}
}
