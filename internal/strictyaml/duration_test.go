package strictyaml

import (
	"math"
	"testing"
	"time"
)

func TestDuration(t *testing.T) {
	const hour = time.Hour
	for text, want := range map[string]time.Duration{
		"90d": 90 * day, "1d": day, "0d": 0, "0s": 0, "-2d": -2 * day, "1d12h": 36 * hour, "1d0h": day, "1d1h30m": 25*hour + 30*time.Minute,
		"-1d1h": -25 * hour, "2160h": 90 * day, "1h30m": 90 * time.Minute, "30m": 30 * time.Minute, "1ms": time.Millisecond, "106751d": 106751 * day,
		"+5m": 5 * time.Minute, "1.5h": 90 * time.Minute,
	} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("ParseDuration(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "0", "5", "d", "-d", "1.5d", "d1h", "1d1", "1d0", "1d-1h", "1d+1h", "1h1d", "1d1d", "+1d", "--1d", "-+1d", " 1d", "1d ", "1D", "1w", "soon",
		"106752d", "106751d24h", "99999999999999999999d", "9223372036855s", "0x1d", "1_0d", "1days",
	} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("ParseDuration(%q) = %v, want an error", text, got)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "0s", 90 * time.Second: "1m30s", 30 * time.Minute: "30m", hour: "1h", 90 * time.Minute: "1h30m", 10 * hour: "10h", 100 * time.Minute: "1h40m",
		24 * hour: "1d", 25 * hour: "25h", 36*hour + time.Second: "36h0m1s", 2160 * hour: "90d", -48 * hour: "-2d", 10 * time.Second: "10s", 1500 * time.Millisecond: "1.5s",
	} {
		if got := FormatDuration(d); got != want {
			t.Errorf("FormatDuration(%v) = %q, want %q", int64(d), got, want)
		}
	}
}

func FuzzDuration(f *testing.F) {
	f.Add("1d12h", int64(0))
	f.Add("-106751d", int64(math.MinInt64))
	f.Fuzz(func(t *testing.T, text string, n int64) {
		if d, err := ParseDuration(text); err == nil {
			n = int64(d)
		}
		d := time.Duration(n)
		if got, err := ParseDuration(FormatDuration(d)); err != nil || got != d {
			t.Errorf("%q, which is %d, is parsed as %d, %v", FormatDuration(d), d, got, err)
		}
	})
}
