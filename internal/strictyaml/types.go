package strictyaml

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// Duration is a duration with its unit: "5m", "1h30m", "90d". It may be negative; the
// validator checks its range.
type Duration time.Duration

// day is the unit "d", which package time does not have: always 24 hours.
const day = 24 * time.Hour

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := ParseDuration(string(text))
	if err != nil {
		return err
	}
	*d = Duration(v)
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

func (d Duration) String() string { return FormatDuration(time.Duration(d)) }

// ParseDuration parses a duration as time.ParseDuration does, and also a whole number of days
// before the other units: "90d", "1d12h". A unit is required.
func ParseDuration(s string) (time.Duration, error) {
	invalid := errors.New(`expected a duration with its unit, such as "30s", "5m" or "90d"`)
	unsigned := strings.TrimPrefix(s, "-")
	days, rest, hasDays := strings.Cut(unsigned, "d")
	if !hasDays {
		v, err := time.ParseDuration(s)
		// time.ParseDuration accepts "0" without a unit.
		if err != nil || !strings.ContainsAny(s, "hmnsuµμ") {
			return 0, invalid
		}
		return v, nil
	}
	n, err := strconv.ParseUint(days, 10, 32)
	if err != nil || n > uint64(math.MaxInt64/day) || strings.HasPrefix(rest, "-") || strings.HasPrefix(rest, "+") {
		return 0, invalid
	}
	v := time.Duration(n) * day
	if rest != "" {
		more, err := time.ParseDuration(rest)
		if err != nil || rest == "0" || more > math.MaxInt64-v {
			return 0, invalid
		}
		v += more
	}
	if unsigned != s {
		v = -v
	}
	return v, nil
}

// FormatDuration formats a duration as people write it and ParseDuration parses it: "5m"
// and not "5m0s", "90d" and not "2160h0m0s".
func FormatDuration(d time.Duration) string {
	if d != 0 && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Bytes is a number of bytes, with or without a unit: "64MiB", "67108864".
type Bytes int64

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *Bytes) UnmarshalText(text []byte) error {
	v, err := humanize.ParseBytes(string(text))
	if err != nil || v > math.MaxInt64 {
		return errors.New(`expected an amount of bytes, such as "64MiB"`)
	}
	*b = Bytes(v)
	return nil
}

func (b Bytes) String() string { return humanize.IBytes(uint64(max(0, b))) }
