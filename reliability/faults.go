package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// fault is a failure that the test causes and ends.
type fault struct {
	name  string
	begin func(ctx context.Context, w *world) error
	end   func(ctx context.Context, w *world) error
	last  time.Duration
}

// toxic is a failure of the network between the broker and the vault.
func toxic(name, kind, attributes string) fault {
	return fault{
		name: name,
		begin: func(_ context.Context, w *world) error {
			_, err := w.proxy.Toxics.AddToxicJson(strings.NewReader(fmt.Sprintf(`{"type":%q,"stream":"downstream","attributes":%s}`, kind, attributes)))
			return err
		},
		end:  func(ctx context.Context, w *world) error { w.proxy.Toxics.ResetToxics(ctx); return nil },
		last: 4 * time.Second,
	}
}

var nothing = func(context.Context, *world) error { return nil }

var faults = []fault{
	{name: "secrets rotated", begin: func(_ context.Context, w *world) error { w.rotate(); return nil }, end: nothing, last: 3 * time.Second},
	toxic("vault slow, 300 ms", "latency", `{"latency":300,"jitter":100}`),
	toxic("vault silent", "timeout", `{"timeout":0}`),
	toxic("connections reset", "reset_peer", `{"timeout":20}`),
	toxic("answers cut off", "limit_data", `{"bytes":2000}`),
	toxic("answers in small pieces", "slicer", `{"average_size":40,"size_variation":20,"delay":500}`),
	{
		name:  "vault down",
		begin: func(_ context.Context, w *world) error { w.proxy.Stop(); return nil },
		end:   func(_ context.Context, w *world) error { return w.proxy.Start() },
		last:  8 * time.Second,
	},
	{
		name: "vault throttles",
		begin: func(_ context.Context, w *world) error {
			return w.editSecrets(func(s string) string {
				return strings.Replace(s, "  "+shakyVault+":\n", "  "+shakyVault+":\n    fault: throttled\n    retry_after: 1s\n", 1)
			})
		},
		end: func(_ context.Context, w *world) error {
			return w.editSecrets(func(s string) string { return strings.Replace(s, "    fault: throttled\n    retry_after: 1s\n", "", 1) })
		},
		last: 4 * time.Second,
	},
	{
		name:  "broker killed",
		begin: func(_ context.Context, w *world) error { w.stopBroker(syscall.SIGKILL); return nil },
		end:   func(ctx context.Context, w *world) error { return w.startBroker(ctx) },
		last:  time.Second,
	},
	{
		name:  "broker restarted",
		begin: func(_ context.Context, w *world) error { w.stopBroker(syscall.SIGTERM); return nil },
		end:   func(ctx context.Context, w *world) error { return w.startBroker(ctx) },
		last:  0,
	},
	{
		name:  "a grant removed",
		begin: func(ctx context.Context, w *world) error { return w.revoke(ctx) },
		end:   func(_ context.Context, w *world) error { return w.regrant() },
		last:  3 * time.Second,
	},
	{
		name: "an invalid integration file",
		begin: func(_ context.Context, w *world) error {
			return writeFile(filepath.Join(w.env.Dir, "integrations", "cspi-shaky.yaml.new"), "")
		},
		end: func(_ context.Context, w *world) error {
			path := filepath.Join(w.env.Dir, "integrations", "cspi-shaky.yaml")
			good, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if err := writeFile(path, "id: [cspi-shaky"); err != nil {
				return err
			}
			time.Sleep(2 * time.Second)
			return writeFile(path, string(good))
		},
		last: 0,
	},
	{
		name: "audit log rotated",
		begin: func(_ context.Context, w *world) error {
			path := filepath.Join(w.env.Dir, "audit.jsonl")
			return os.Rename(path, fmt.Sprintf("%s.%d", path, time.Now().UnixNano()))
		},
		end:  func(_ context.Context, w *world) error { w.signal(syscall.SIGHUP); return nil },
		last: 500 * time.Millisecond,
	},
	{
		name: "SIGHUP storm",
		begin: func(ctx context.Context, w *world) error {
			for range 50 {
				w.signal(syscall.SIGHUP)
				pause(ctx, 10*time.Millisecond)
			}
			return nil
		},
		end: nothing, last: 0,
	},
}

// breakThings causes the failures one after the other, repeatedly, until ctx ends. Secrets
// change during the whole time.
func (w *world) breakThings(ctx context.Context, l *load) {
	pause(ctx, 2*time.Second)
	for {
		for _, f := range faults {
			if ctx.Err() != nil {
				return
			}
			fmt.Fprintln(os.Stderr, time.Now().Format(time.TimeOnly), f.name)
			if err := f.begin(ctx, w); err != nil {
				fmt.Fprintln(os.Stderr, "  begin:", err)
			}
			pause(ctx, f.last)
			if err := f.end(context.WithoutCancel(ctx), w); err != nil {
				fmt.Fprintln(os.Stderr, "  end:", err)
			}
			l.faultCleared(f.name)
			pause(ctx, 4*time.Second)
			w.scrape()
		}
		w.rotate()
	}
}

func (w *world) editSecrets(change func(string) string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	data, err := os.ReadFile(w.env.SecretsFile)
	if err != nil {
		return err
	}
	return writeFile(w.env.SecretsFile, change(string(data)))
}

// revoke removes the steady integration's grant. Two seconds later it must have no effect.
func (w *world) revoke(ctx context.Context) error {
	if err := w.steadyGrant(false); err != nil {
		return err
	}
	pause(ctx, 2*time.Second)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deniedFrom, w.deniedUntil = time.Now(), time.Time{}
	return nil
}

func (w *world) regrant() error {
	w.mu.Lock()
	w.deniedUntil = time.Now()
	w.mu.Unlock()
	return w.steadyGrant(true)
}
