package strictyaml

import (
	"errors"
	"math"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// Duration is a duration with its unit: "5m", "1h30m". It may be negative; the validator
// checks its range.
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	// ParseDuration accepts "0" without a unit.
	if err != nil || !strings.ContainsAny(string(text), "hmnsuµμ") {
		return errors.New(`expected a duration with its unit, such as "30s" or "5m"`)
	}
	*d = Duration(v)
	return nil
}

func (d Duration) String() string { return time.Duration(d).String() }

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
