package app

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/procmem"
)

// planted is a JSON document whose password is the canary. The vault sends it in
// another encoding, as a JSON string. So copies of the plain document belong to the cache, or
// to the SDK until they are collected, and copies in the vault's encoding are received data
// that was not parsed yet.
type planted struct{ canary, document, received string }

func plant() planted {
	canary := "canary-"
	for range 20 { // longer than registers, which are saved on stacks
		canary += rand.Text()
	}
	return planted{canary, `{"user":"sa","password":"` + canary + `"}`, canary + `\"}"`}
}

func vaultWith(p planted) string {
	return "vaults: {your-key-vault-name: {secrets: {sqlserver-db: {value: '" + p.document + "'}}}}\n"
}

// count returns how often the three forms are in the broker's memory.
func (c *child) count(t *testing.T, p planted) (canaries, documents, received int) {
	t.Helper()
	n, err := procmem.Count(c.cmd.Process.Pid, procmem.Mask([]byte(p.canary)), procmem.Mask([]byte(p.document)), procmem.Mask([]byte(p.received)))
	if errors.Is(err, procmem.ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return n[0], n[1], n[2]
}

// TestMemory searches the memory of a real broker. With clobberfree, Go overwrites memory
// that it collects, so that after a collection every copy that is found is still referenced.
// Values that the broker wipes disappear without a collection.
func TestMemory(t *testing.T) {
	t.Parallel()
	first, second := plant(), plant()
	c := startChild(t, vaultWith(first), func(c *child) error {
		c.cmd.Env = append(c.cmd.Env, "GODEBUG=clobberfree=1")
		if os.Getuid() != 0 {
			c.cmd.Args[0] = "bare-broker"
		}
		return edit(c.IntegrationFile, "ttl: 5m", "ttl: 2s")
	})
	deadline := time.Now().Add(time.Minute)
	until := func(what string, done func() bool) {
		t.Helper()
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for !done() {
			if <-tick.C; time.Now().After(deadline) {
				t.Fatalf("not before the deadline: %s", what)
			}
		}
	}
	ask := func(maxAge *time.Duration) (expires time.Time) {
		req := request("p", vault+"::sqlserver-db::password", "w", vault+"::sqlserver-db")
		req.MaxAge = maxAge
		res, err := c.Resolve(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		return res.Values["p"].CacheExpireTime
	}
	count := func(p planted, when string) (documents int) {
		n, docs, received := c.count(t, p)
		t.Logf("%-30s %3d copies of the password: %d in the document, %d as received", when, n, docs, received)
		return docs
	}
	cached := func(p planted) bool { // and in no other place
		ask(nil)
		c.collect(t)
		_, docs, _ := c.count(t, p)
		return docs == 1
	}
	wiped := func(p planted) bool {
		_, docs, _ := c.count(t, p)
		return docs == 0
	}
	// The remaining copies are in the buffers of the connection to the vault, which this
	// project cannot wipe: TLS records, HTTP/2 frames, bodies. Later answers overwrite
	// them, and the end of the connection frees them.
	onlyReceived := func(p planted, when string) {
		t.Helper()
		c.collect(t)
		n, docs, received := c.count(t, p)
		t.Logf("%-30s %3d copies of the password: %d in the document, %d as received", when+", collected", n, docs, received)
		if n != received || docs > 0 {
			t.Errorf("%s: copies are referenced that were not just received", when)
		}
	}

	if count(first, "before") > 0 {
		t.Error("the value is in memory before the read: the test is void")
	}
	ask(nil)
	count(first, "after one call")
	for range 50 {
		ask(nil)
	}
	count(first, "after 50 more")
	until("cached", func() bool { return cached(first) })
	count(first, "cached, collected")
	until("wiped when it expires", func() bool { return wiped(first) })
	onlyReceived(first, "expired")

	if err := replace(c.SecretsFile, vaultWith(second)); err != nil {
		t.Fatal(err)
	}
	if err := edit(c.IntegrationFile, "ttl: 2s", "ttl: 10m"); err != nil {
		t.Fatal(err)
	}
	zero := time.Duration(0)
	until("the new version, for long", func() bool { return time.Until(ask(&zero)) > time.Minute && cached(second) })
	onlyReceived(first, "replaced")

	c.signal(t, syscall.SIGTERM)
	c.expect(t, "ended with 0\n")
	if count(second, "ended, before the process has") > 0 {
		t.Error("the cache is not wiped at the end")
	}
	onlyReceived(second, "ended")
	if strings.Contains(c.log.String(), "canary") {
		t.Error("the log contains a value")
	}
}

// TestStacksContainNoValue: dumps of all goroutines, on request or after a crash, contain
// addresses and lengths only.
func TestStacksContainNoValue(t *testing.T) {
	p := plant()
	check := func(t *testing.T, dump string) {
		t.Helper()
		if !strings.Contains(dump, "goroutine 1 ") {
			t.Fatalf("that is no dump of goroutines:\n%s", dump)
		}
		words := []byte(p.canary[:8])
		slices.Reverse(words) // as a register holds them
		for _, form := range []string{p.canary[:8], hex.EncodeToString(words), hex.EncodeToString([]byte(p.canary[:8])), "99 97 110 97 114 121"} {
			if strings.Contains(dump, form) {
				t.Errorf("the dump has the value, as %q", form)
			}
		}
	}
	t.Run("SIGQUIT", func(t *testing.T) {
		c := startChild(t, vaultWith(p), func(c *child) error {
			c.cmd.Env = append(c.cmd.Env, "GOTRACEBACK=system")
			return nil
		})
		if _, err := c.Resolve(t.Context(), request("p", vault+"::sqlserver-db::password")); err != nil {
			t.Fatal(err)
		}
		c.signal(t, syscall.SIGQUIT)
		<-c.read
		check(t, c.log.String())
	})
	t.Run("panic", func(t *testing.T) {
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), exe)
		cmd.Args = []string{"crashing-broker", p.canary}
		cmd.Env = append(os.Environ(), "GOTRACEBACK=system")
		dump, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(dump), "app.crash(") || !strings.Contains(string(dump), "[REDACTED]") {
			t.Fatalf("it did not panic where it should: %v\n%s", err, dump)
		}
		check(t, string(dump))
	})
}
