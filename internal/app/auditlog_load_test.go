package app

import (
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/audit/logread"
	"github.com/secretbroker/secretbroker/internal/devmode"
)

// TestAuditDiskFillsUpUnderLoad runs a whole broker under load. Its audit log is rotated onto
// a full disk and back, and then the broker is shut down. Every value that a caller received
// must have its record in the file.
func TestAuditDiskFillsUpUnderLoad(t *testing.T) {
	var file, link string
	b := newBroker(t, func(env *devmode.Environment) error {
		file, link = filepath.Join(env.Dir, "real.jsonl"), filepath.Join(env.Dir, "audit.jsonl")
		return os.Symlink(file, link)
	})
	rotate := func(to string) {
		t.Helper()
		next := link + ".next"
		if err := errors.Join(os.Symlink(to, next), os.Rename(next, link)); err != nil {
			t.Fatal(err)
		}
		b.hangups <- syscall.SIGHUP
	}
	var mu sync.Mutex
	served := make(map[string]bool)
	clients := make([]*client.Client, 4)
	for i := range clients {
		clients[i] = b.patient(t)
	}
	// ask starts callers that ask until the broker is not available; some are denied.
	ask := func() (callers *sync.WaitGroup, enough <-chan struct{}) {
		callers, reached := &sync.WaitGroup{}, make(chan struct{})
		goal := len(served) + 1000
		for _, c := range clients {
			for i := range 64 {
				req := request("p", vault+"::sqlserver-db-secret")
				if i%4 == 0 {
					req = request("p", vault+"::oracle-password")
				}
				callers.Go(func() {
					for {
						res, err := c.Resolve(t.Context(), req)
						var e *client.Error
						if errors.As(err, &e) && e.Code == codes.Unavailable {
							return
						}
						if err != nil {
							continue
						}
						mu.Lock()
						served[res.RequestID] = true
						if len(served) == goal {
							close(reached)
						}
						mu.Unlock()
					}
				})
			}
		}
		return callers, reached
	}
	callers, enough := ask()
	<-enough
	rotate("/dev/full")
	callers.Wait()
	ready := func() bool { return !strings.Contains(b.get(t, "/readyz"), "not_ready") }
	asynctest.Eventually(t, "it is not ready", func() bool { return !ready() })
	for range 500 {
		var e *client.Error
		if _, err := clients[0].Resolve(t.Context(), request("p", vault+"::sqlserver-db-secret")); !errors.As(err, &e) {
			t.Fatal("the broker answers without its audit log")
		}
	}
	if lines := strings.Count(b.log.String(), "could not be resolved"); lines == 0 || lines > 400 {
		t.Errorf("%d log lines about failed calls", lines)
	}
	rotate(file)
	asynctest.Eventually(t, "the broker is ready again without calls", ready)
	asynctest.Eventually(t, "it answers again", func() bool {
		_, err := clients[0].Resolve(t.Context(), request("p", vault+"::sqlserver-db-secret"))
		return err == nil
	})
	callers, enough = ask()
	<-enough
	if err := b.stop(); err != nil {
		t.Error(err)
	}
	callers.Wait()

	for line := range strings.Lines(readFile(file)) {
		_, rest, _ := strings.Cut(line, `"request_id":"`)
		id, _, _ := strings.Cut(rest, `"`)
		if strings.Contains(line, `"outcome":"served"`) {
			delete(served, id)
		}
	}
	for id := range maps.Keys(served) {
		t.Errorf("call %s was served and has no record", id)
	}
	report, err := logread.Verify(t.Context(), logread.VerifyConfig{}, []string{file})
	if err != nil || report.Break != nil {
		t.Errorf("the log: %v, %v", report.Break, err)
	}
}

// patient returns a client of a worker with its own connection.
func (b *broker) patient(t *testing.T) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{
		Addrs: []string{b.addr}, CAFile: b.CAFile, CertFile: b.Worker.CertFile, KeyFile: b.Worker.KeyFile,
		MaxAttempts: 1, Timeout: time.Minute, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
