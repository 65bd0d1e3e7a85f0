package cache

import (
	"testing"
	"time"
	"unsafe"

	"github.com/secretbroker/secretbroker/internal/elapsed"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// withMonotonic moves only the monotonic reading of a time, which no test clock can do:
// time.Time is {wall uint64; ext int64; loc}, and ext is the monotonic reading if there is
// one.
func withMonotonic(t *testing.T, at time.Time, move time.Duration) time.Time {
	t.Helper()
	moved := at
	(*struct {
		wall uint64
		ext  int64
	})(unsafe.Pointer(&moved)).ext += int64(move)
	if moved.Sub(at) != move || !moved.Round(0).Equal(at.Round(0)) {
		t.Fatal("time.Time is not what it was")
	}
	return moved
}

func TestElapsedTakesTheLaterClock(t *testing.T) {
	from := time.Now()
	both := from.Add(10 * time.Second)
	for name, tt := range map[string]struct {
		to   time.Time
		want time.Duration
	}{
		"clocks agree":      {both, 10 * time.Second},
		"suspended for 1 h": {withMonotonic(t, both.Add(time.Hour), -time.Hour), 10*time.Second + time.Hour},
		"set back by 1 h":   {withMonotonic(t, both.Add(-time.Hour), time.Hour), 10 * time.Second},
		"set ahead by 1 h":  {withMonotonic(t, both.Add(time.Hour), -time.Hour), 10*time.Second + time.Hour},
		"no monotonic":      {both.Round(0), 10 * time.Second},
	} {
		if got := elapsed.Between(from, tt.to); got != tt.want {
			t.Errorf("%s: elapsed %v, want %v", name, got, tt.want)
		}
	}
}

// A jump of the wall clock or a suspension of the machine never keeps a value longer.
func TestClockJumps(t *testing.T) {
	const hour = time.Hour
	for name, jump := range map[string]struct{ wall, monotonic time.Duration }{
		"suspended":                    {wall: 2 * time.Minute},
		"set back after the TTL":       {wall: -hour, monotonic: 2 * time.Minute},
		"set back to before the read":  {wall: -10 * hour, monotonic: time.Minute},
		"set ahead":                    {wall: hour},
		"monotonic only, wall the TTL": {wall: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			c, s := newCache(t, Config{}), newFakeStore()
			expect(t, c, s, want("a"), 1, Miss)
			expect(t, c, s, want("a"), 1, Hit)
			s.rotate()
			// A jump of both clocks is simulated by moving the time of the read back on
			// each of them. A synctest bubble has no monotonic clock.
			k := key("a")
			e := c.peek(c.hash(&k), &k)
			e.secret.FetchedAt = withMonotonic(t, e.secret.FetchedAt.Add(-jump.wall), jump.wall-jump.monotonic)
			expect(t, c, s, want("a"), 2, Miss)
		})
	}
}

func TestNewEntryAsOf(t *testing.T) {
	started := time.Now()
	now := started.Add(3 * time.Second)
	for name, tt := range map[string]struct {
		fetched time.Time
		want    time.Duration // since started
	}{
		"at the start":         {started, 0},
		"later":                {started.Add(time.Second), time.Second},
		"without monotonic":    {started.Add(time.Second).Round(0), time.Second},
		"from before":          {started.Add(-time.Minute), -time.Minute},
		"from the future":      {started.Add(time.Hour), 0},
		"from no time at all":  {time.Time{}, time.Time{}.Sub(started)},
		"of another time zone": {started.Add(time.Second).UTC(), time.Second},
	} {
		e := newEntry(Key{}, secret.New("", tt.fetched, time.Time{}, nil), time.Minute, 0.2, started, now)
		if got := e.secret.FetchedAt.Sub(started); got != tt.want {
			t.Errorf("%s: as of %v after the start, want %v", name, got, tt.want)
		}
		if !hasMonotonic(e.secret.FetchedAt) && tt.want > -time.Hour {
			t.Errorf("%s: as of has no monotonic reading", name)
		}
	}
}

func TestRecentLoadsAreBounded(t *testing.T) {
	var r negativeCache
	now := time.Now()
	get := func(name int) *lastLoad {
		return r.get(uint64(name), &loadKey{Key: Key{Name: string(rune(name))}}, now)
	}
	put := func(name int, until time.Duration) {
		r.put(&lastLoad{key: loadKey{Key: Key{Name: string(rune(name))}}, hash: uint64(name), until: now.Add(until)}, now)
	}
	for i := range maxNegative + 100 {
		put(i, time.Second)
		put(i, time.Second) // replaces the first
		if len(r.byHash) > maxNegative || len(r.byHash) != r.order.Len() {
			t.Fatalf("%d loads are remembered, %d in order", len(r.byHash), r.order.Len())
		}
	}
	if get(99) != nil {
		t.Error("the oldest is not forgotten")
	}
	for _, i := range []int{100, maxNegative + 99} {
		if get(i) == nil {
			t.Errorf("load %d is forgotten", i)
		}
	}
	now = now.Add(time.Second)
	if get(100) != nil {
		t.Error("what is over is still known")
	}
	put(1, time.Second)
	if len(r.byHash) != 1 || r.order.Len() != 1 {
		t.Errorf("%d loads are remembered, want one", len(r.byHash))
	}
	put(1, 0)
	if len(r.byHash) != 0 {
		t.Error("what is over from the start is remembered")
	}
}

// Neither of two keys with the same hash is answered with the remembered load of the
// other.
func TestRecentLoadsOfTheSameHash(t *testing.T) {
	var r negativeCache
	now := time.Now()
	a, b := key("a"), key("b")
	r.put(&lastLoad{key: loadKey{Key: a}, hash: 1, until: now.Add(time.Second)}, now)
	if r.get(1, &loadKey{Key: a}, now) == nil || r.get(1, &loadKey{Key: b}, now) != nil {
		t.Error("one load is taken for another")
	}
	r.put(&lastLoad{key: loadKey{Key: b}, hash: 1, until: now.Add(time.Second)}, now)
	if r.get(1, &loadKey{Key: a}, now) != nil || r.get(1, &loadKey{Key: b}, now) == nil || r.order.Len() != 1 {
		t.Error("the second does not take the place of the first")
	}
}

func TestEntryKnowsItsKey(t *testing.T) {
	mine := Key{Integration: "i", Revision: "r", Store: "s", Name: "n", Version: "v"}
	e := newEntry(mine, secret.New("", time.Now(), time.Time{}, nil), time.Minute, 0.2, time.Now(), time.Now())
	if !e.is(&mine) || e.key() != mine {
		t.Errorf("the entry of %+v is %+v", mine, e.key())
	}
	for _, other := range []Key{
		{},
		{"x", "r", "s", "n", "v"},
		{"i", "x", "s", "n", "v"},
		{"i", "r", "x", "n", "v"},
		{"i", "r", "s", "x", "v"},
		{"i", "r", "s", "n", "x"},
		{"i", "r", "s", "n", ""},
		{"i", "r", "s", "nv", ""},
		{"i", "r", "s", "", "nv"},
		{"", "ir", "s", "n", "v"},
	} {
		if e.is(&other) {
			t.Errorf("the entry of %+v is taken for that of %+v", mine, other)
		}
	}
}
