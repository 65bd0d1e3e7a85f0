package campaign

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// Many connectors: the limits hold, although the cluster rebalances, hangs and fails at times.
func TestManyConnectors(t *testing.T) {
	test(t, "", func(t *testing.T, w *world) {
		const n = 200
		for i := range n {
			w.put(string(rune('a'+i/26))+string(rune('a'+i%26)), 3)
		}
		r := w.cfg.Restarts
		r.MaxParallel, r.MinInterval, r.PerHour = 4, strictyaml.Duration(5*time.Second), 120
		w.engine.Poll = 5 * time.Second
		gets, posts := 0, 0
		var accepted []time.Time
		w.cluster.Intercept = func(req *http.Request) int {
			if req.Method == http.MethodGet {
				switch gets++; {
				case gets%97 == 0:
					<-req.Context().Done()
				case gets%13 == 0:
					return http.StatusServiceUnavailable
				}
				return 0
			}
			switch posts++; {
			case posts%7 == 0:
				return http.StatusConflict
			case posts%17 == 0:
				return http.StatusInternalServerError
			}
			accepted = append(accepted, time.Now())
			if posts%29 == 0 { // restarts, and does not answer
				<-req.Context().Done()
			}
			return 0
		}
		running, peak := make(map[string]bool), 0
		w.engine.Changed = func(it Connector) {
			running[it.Name] = it.State == Running
			count := 0
			for _, yes := range running {
				if yes {
					count++
				}
			}
			peak = max(peak, count)
		}
		c := w.run(w.campaign(false), 10*time.Hour)
		if peak != 4 {
			t.Errorf("%d connectors at a time", peak)
		}
		if c.State != Verified || len(c.Connectors) != n {
			w.expect(c, "VERIFIED")
		}
		for i := 1; i < len(accepted); i++ {
			if gap := accepted[i].Sub(accepted[i-1]); gap < 5*time.Second {
				t.Errorf("restarts %s after each other", gap)
			}
			if i >= 120 && accepted[i].Sub(accepted[i-120]) < time.Hour {
				t.Error("more than the budget of an hour")
			}
		}
		if len(accepted) < n || posts < n+n/7 {
			t.Errorf("%d requests, %d accepted", posts, len(accepted))
		}
		if accepted[1].Before(c.Connectors[0].VerifyTime) {
			t.Error("the second restart did not wait for the canary")
		}
		synctest.Wait()
	})
}

func TestDebouncer(t *testing.T) {
	d := Debouncer[string]{Quiet: 10 * time.Second, Longest: 25 * time.Second}
	at := func(s int) time.Time { return time.Unix(1e9+int64(s), 0) }
	expect := func(s int, want time.Duration, wantOK bool) {
		t.Helper()
		if wait, ok := d.Wait(at(s)); ok != wantOK || ok && wait != want {
			t.Errorf("at %d: %s, %v", s, wait, ok)
		}
	}
	expect(0, 0, false)
	d.Add(at(0), "a")
	expect(0, 10*time.Second, true)
	d.Add(at(9), "b")
	d.Add(at(9), "a")
	expect(10, 9*time.Second, true)
	d.Add(at(18), "a")
	expect(18, 7*time.Second, true) // the longest time
	if keys := d.Take(); len(keys) != 2 {
		t.Error(keys)
	}
	expect(18, 0, false)
}
