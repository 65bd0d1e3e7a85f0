package campaign

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/connectapi"
)

func TestCampaign(t *testing.T) {
	test(t, "verified", func(t *testing.T, w *world) {
		w.offset = -7 * time.Hour // the broker's clock
		for _, name := range []string{"a", "b", "legacy-x", "paused", "none"} {
			w.put(name, 2)
		}
		w.cluster.Put("none", map[string]string{"password": "${secretbroker:cspi:" + dbSecret + "}", "config.action.reload": "none"}, 1, "w1:1")
		w.cluster.Put("files", map[string]string{"file": "x"}, 1, "w1:1")
		w.cluster.Put("pinned", map[string]string{"p": "${secretbroker:cspi:" + dbSecret + "#0123456789abcdef0123456789abcdef}"}, 1, "w1:1")
		w.cluster.SetState("paused", -1, connectapi.StatePaused)
		began := time.Now()
		c := w.run(w.campaign(false), time.Hour)
		w.expect(c, "VERIFIED a=VERIFIED b=VERIFIED legacy-x=SKIPPED none=SKIPPED paused=SKIPPED")
		if got := w.cluster.Restarts(); !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("restarts %q", got)
		}
		a, b := c.Connectors[0], c.Connectors[1]
		if !a.Canary || b.Canary || len(a.Proof) != 1 || a.Proof[0].Version != "v2" || a.Proof[0].RequestID == "" || !a.Weak || b.AttemptTime.Before(a.VerifyTime) {
			t.Errorf("%+v\n%+v", a, b)
		}
		if took := time.Since(began); took > 70*time.Second { // twice: 3 s to start, 20 s to settle, and the polls
			t.Errorf("took %s", took)
		}
	})
	test(t, "the canary fails", func(t *testing.T, w *world) {
		w.put("a", 2)
		w.put("b", 2)
		w.cluster.Start = func(_ string, task int, _ string) bool { w.read(""); return task != 1 }
		c := w.run(w.campaign(false), time.Hour)
		w.expect(c, "HALTED a=FAILED b=PENDING")
		for _, want := range []string{"the canary a of cluster prod failed", "task 1 is FAILED on worker w1:8083", "1 connectors were not restarted", "previous version"} {
			if !strings.Contains(c.Reason, want) {
				t.Errorf("no %q in %q", want, c.Reason)
			}
		}
	})
	test(t, "RESTARTING for ever", func(t *testing.T, w *world) {
		w.put("a", 1)
		w.put("b", 1)
		w.cluster.Stick("a")
		c := w.run(w.campaign(false), 3*time.Minute)
		w.expect(c, "HALTED a=FAILED b=PENDING")
		if !strings.Contains(c.Reason, "RESTARTING on worker w1:8083 for 1m") {
			t.Error(c.Reason)
		}
	})
	// The cluster accepts, says RUNNING, and has restarted nothing.
	test(t, "a lie", func(t *testing.T, w *world) {
		w.put("a", 1)
		w.put("b", 1)
		w.cluster.RestartTime, w.cluster.Start = 0, nil
		c := w.run(w.campaign(false), time.Hour)
		w.expect(c, "HALTED a=STALLED b=PENDING")
		if !strings.Contains(c.Reason, "a read of version v2 of "+dbSecret+"::password by "+principal+" after the restart") {
			t.Error(c.Reason)
		}
	})
	test(t, "a task gets the old version", func(t *testing.T, w *world) {
		w.put("a", 2)
		w.answers = []string{"v2", "v1", "v2"}
		c := w.run(w.campaign(false), time.Hour)
		w.expect(c, "HALTED a=STALLED")
		if !strings.Contains(c.Reason, "read version v1 of") {
			t.Error(c.Reason)
		}
	})
	// The reads before the restart prove nothing, and an old version before it does no harm.
	test(t, "old reads", func(t *testing.T, w *world) {
		w.put("a", 1)
		w.record(principal, "", "v2")
		w.record(principal, "", "v1")
		w.cluster.RestartTime, w.cluster.Start = 0, nil
		time.AfterFunc(time.Minute, func() { w.read("a") })
		time.Sleep(5 * time.Second)
		c := w.run(w.campaign(false), time.Hour)
		w.expect(c, "VERIFIED a=VERIFIED")
		if c.Connectors[0].VerifyTime.Sub(c.CreateTime) < 50*time.Second {
			t.Error("proved by an old read")
		}
	})
	test(t, "another identity", func(t *testing.T, w *world) {
		w.put("a", 1)
		w.cluster.Start = func(string, int, string) bool {
			w.set(func() { w.record("spiffe://example.org/other", "", "v2") })
			return true
		}
		w.expect(w.run(w.campaign(false), time.Hour), "HALTED a=STALLED")
	})
	test(t, "an unknown worker", func(t *testing.T, w *world) {
		w.cluster.Put("a", map[string]string{"p": "${secretbroker:cspi:" + dbSecret + "::password}"}, 1, "w1:1", "x:1")
		c := w.run(w.campaign(false), time.Hour)
		if w.expect(c, "HALTED a=STALLED"); !strings.Contains(c.Reason, "the identity of worker x:1") {
			t.Error(c.Reason)
		}
	})
}

// With a label in the placeholder, only reads of that connector count.
func TestLabel(t *testing.T) {
	for label, want := range map[string]string{"a": "VERIFIED a=VERIFIED", "b": "HALTED a=STALLED"} {
		test(t, label, func(t *testing.T, w *world) {
			w.cluster.Put("a", map[string]string{"p": "${secretbroker:cspi/a:" + dbSecret + "::password}"}, 1, "w1:1")
			w.cluster.Start = func(string, int, string) bool { w.set(func() { w.record(principal, label, "v2") }); return true }
			c := w.run(w.campaign(false), time.Hour)
			if w.expect(c, want); c.Connectors[0].Weak {
				t.Error("a labelled read is not weak")
			}
		})
	}
}

// A connector is not restarted while the broker cannot read its secret, or is rebalancing.
func TestWaits(t *testing.T) {
	test(t, "broker", func(t *testing.T, w *world) {
		w.put("a", 1)
		w.down = errors.New("STORE_UNAVAILABLE")
		time.AfterFunc(10*time.Minute, func() {
			if len(w.cluster.Restarts()) > 0 {
				t.Error("restarted while the broker cannot answer")
			}
			w.set(func() { w.down = nil })
		})
		w.expect(w.run(w.campaign(false), time.Hour), "VERIFIED a=VERIFIED")
	})
	test(t, "store of the state", func(t *testing.T, w *world) {
		w.put("a", 1)
		w.saveErr = errors.New("disk full")
		time.AfterFunc(10*time.Minute, func() {
			if len(w.cluster.Restarts()) > 0 {
				t.Error("restarted without a record of it")
			}
			w.set(func() { w.saveErr = nil })
		})
		w.expect(w.run(w.campaign(false), time.Hour), "VERIFIED a=VERIFIED")
	})
	test(t, "rebalance", func(t *testing.T, w *world) {
		w.put("a", 1)
		end := time.Now().Add(20 * time.Minute)
		w.cluster.Intercept = func(r *http.Request) int {
			if r.Method == http.MethodPost && time.Now().Before(end) {
				return http.StatusConflict
			}
			return 0
		}
		c := w.run(w.campaign(false), time.Hour)
		if w.expect(c, "VERIFIED a=VERIFIED"); c.Connectors[0].Attempts != 1 {
			t.Errorf("%d attempts", c.Connectors[0].Attempts)
		}
	})
	test(t, "unassigned", func(t *testing.T, w *world) {
		w.put("a", 1)
		w.cluster.SetState("a", 0, connectapi.StateUnassigned)
		time.AfterFunc(30*time.Second, func() { w.cluster.SetState("a", 0, connectapi.StateRunning) })
		c := w.run(w.campaign(false), time.Hour)
		if w.expect(c, "VERIFIED a=VERIFIED"); c.Connectors[0].AttemptTime.Sub(c.CreateTime) < 30*time.Second {
			t.Error("restarted during a rebalance")
		}
	})
	test(t, "window", func(t *testing.T, w *world) { // the fake clock begins at midnight UTC on a Saturday
		file := "clusters: [{name: prod, url: 'http://127.0.0.1:1', restarts: {include: ['*'], workers: [{worker: '*', principal: 'p'}], windows: [{days: [sat], from: '03:00', to: '04:00'}]}}]"
		w.cfg.Restarts.Windows = loadWindows(t, file)
		w.put("a", 1)
		c := w.run(w.campaign(false), 48*time.Hour)
		w.expect(c, "VERIFIED a=VERIFIED")
		if at := c.Connectors[0].AttemptTime.UTC(); at.Weekday() != time.Saturday || at.Hour() != 3 {
			t.Error(at)
		}
	})
}

func TestFailedFirst(t *testing.T) {
	for _, singleUser := range []bool{true, false} {
		test(t, "", func(t *testing.T, w *world) {
			w.put("a", 1)
			w.put("b", 1)
			w.cluster.SetState("b", 0, connectapi.StateFailed)
			c := w.run(w.campaign(singleUser), time.Hour)
			want, state := []string{"a", "b"}, "VERIFIED a=VERIFIED b=VERIFIED"
			if singleUser {
				want, state = []string{"b", "a"}, "VERIFIED b=VERIFIED a=VERIFIED"
			}
			if w.expect(c, state); !slices.Equal(w.cluster.Restarts(), want) {
				t.Errorf("%q", w.cluster.Restarts())
			}
		})
	}
	// What had failed before and fails again halts the campaign only if it was to repair it.
	for _, singleUser := range []bool{true, false} {
		test(t, "again", func(t *testing.T, w *world) {
			w.put("a", 1)
			w.put("b", 1)
			w.put("c", 1)
			w.cluster.SetState("b", 0, connectapi.StateFailed)
			w.cluster.SetState("c", 0, connectapi.StateFailed)
			w.cluster.Start = func(name string, _ int, _ string) bool { w.read(name); return name != "b" }
			want := "STALLED a=VERIFIED b=FAILED c=VERIFIED"
			if singleUser {
				want = "HALTED b=FAILED c=PENDING a=PENDING"
			}
			w.expect(w.run(w.campaign(singleUser), time.Hour), want)
		})
	}
}

// Answers to restarts are lost: the request is repeated, a bounded number of times.
func TestUncertain(t *testing.T) {
	for lost, want := range map[int]string{1: "VERIFIED a=VERIFIED", 9: "HALTED a=STALLED"} {
		for _, status := range []int{http.StatusInternalServerError, -1} {
			test(t, want, func(t *testing.T, w *world) {
				w.put("a", 1)
				posts := 0
				w.cluster.Intercept = func(r *http.Request) int {
					if r.Method != http.MethodPost {
						return 0
					}
					if posts++; posts > lost {
						return 0
					}
					if status < 0 {
						<-r.Context().Done() // hangs until the client's timeout
						return http.StatusGatewayTimeout
					}
					return status
				}
				c := w.run(w.campaign(false), time.Hour)
				w.expect(c, want)
				if posts != min(lost+1, maxAttempts) {
					t.Errorf("%d requests", posts)
				}
			})
		}
	}
	test(t, "refused", func(t *testing.T, w *world) {
		w.put("a", 1)
		w.put("b", 1)
		w.cluster.Intercept = func(r *http.Request) int {
			if r.Method == http.MethodPost {
				return http.StatusForbidden
			}
			return 0
		}
		c := w.run(w.campaign(false), time.Hour)
		if w.expect(c, "HALTED a=PENDING b=PENDING"); !strings.Contains(c.Reason, "credential") {
			t.Error(c.Reason)
		}
	})
}

// Connectors change while the campaign waits for its canary.
func TestChangesMeanwhile(t *testing.T) {
	test(t, "", func(t *testing.T, w *world) {
		for _, name := range []string{"a", "b", "c", "d"} {
			w.put(name, 1)
		}
		time.AfterFunc(10*time.Second, func() {
			w.cluster.Remove("b")
			w.cluster.Put("c", map[string]string{"p": "x"}, 1, "w1:1")
			w.cluster.SetState("d", -1, connectapi.StatePaused)
		})
		w.expect(w.run(w.campaign(false), time.Hour), "VERIFIED a=VERIFIED b=SKIPPED c=SKIPPED d=SKIPPED")
		if got := w.cluster.Restarts(); !slices.Equal(got, []string{"a"}) {
			t.Errorf("%q", got)
		}
	})
	test(t, "another rotation", func(t *testing.T, w *world) {
		w.put("a", 1)
		w.put("b", 1)
		time.AfterFunc(10*time.Second, func() { w.set(func() { w.current = "v3" }) })
		c := w.run(w.campaign(false), time.Hour)
		if w.expect(c, "STALLED a=STALLED b=VERIFIED"); !strings.Contains(c.Connectors[0].Missing[0], "run the rotation again") {
			t.Error(c.Connectors[0].Missing)
		}
	})
}

func TestPauseAndAbort(t *testing.T) {
	test(t, "", func(t *testing.T, w *world) {
		for _, name := range []string{"a", "b", "c"} {
			w.put(name, 1)
		}
		c := w.campaign(false)
		e, err := NewEngine(w.engine, c)
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(5*time.Second, e.Pause)
		time.AfterFunc(30*time.Minute, func() {
			if got := states(e.Campaign()); got != "PAUSED a=VERIFIED b=PENDING c=PENDING" {
				t.Error(got)
			}
			e.Resume()
		})
		time.AfterFunc(30*time.Minute+10*time.Second, e.Abort)
		if err := e.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.expect(e.Campaign(), "ABORTED a=VERIFIED b=VERIFIED c=PENDING")
	})
}

// An engine that is stopped at any time can be replaced by another one, which goes on with
// what was stored; no connector that is proved is restarted again.
func TestGoesOn(t *testing.T) {
	for _, stop := range []time.Duration{0, time.Second, 5 * time.Second, 30 * time.Second, 50 * time.Second} {
		test(t, stop.String(), func(t *testing.T, w *world) {
			for _, name := range []string{"a", "b", "c"} {
				w.put(name, 1)
			}
			c := w.campaign(false)
			e, err := NewEngine(w.engine, c)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), stop)
			defer cancel()
			if err := e.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
			stored := w.campaign(false)
			if len(w.saved) > 0 {
				stored = w.saved[len(w.saved)-1].Clone()
			}
			w.expect(w.run(stored, time.Hour), "VERIFIED a=VERIFIED b=VERIFIED c=VERIFIED")
			if got := w.cluster.Restarts(); len(got) > 4 || !slices.IsSorted(got) {
				t.Errorf("%q", got)
			}
		})
	}
	// The engine ended between the request and its answer.
	test(t, "in between", func(t *testing.T, w *world) {
		w.put("a", 1)
		c := w.campaign(false)
		c.Connectors[0].State, c.Connectors[0].Attempts, c.Connectors[0].AttemptTime, c.Connectors[0].Canary = Running, 1, time.Now(), true
		w.expect(w.run(c, time.Hour), "VERIFIED a=VERIFIED")
		if got := w.cluster.Restarts(); len(got) != 1 {
			t.Errorf("%q", got)
		}
	})
}

func loadWindows(t *testing.T, file string) []connectapi.Window {
	t.Helper()
	cfg, err := connectapi.Load(writeFile(t, file))
	if err != nil {
		t.Fatal(err)
	}
	return cfg.Clusters[0].Restarts.Windows
}
