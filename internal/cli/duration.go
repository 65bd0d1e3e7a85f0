package cli

import (
	"time"

	"github.com/spf13/pflag"

	"github.com/secretbroker/secretbroker/internal/integration"
)

// durationFlag is a flag with a duration, written as in the broker's files: "30s", "90d".
type durationFlag time.Duration

func (d *durationFlag) Set(s string) error {
	v, err := integration.ParseDuration(s)
	if err == nil {
		*d = durationFlag(v)
	}
	return err
}

// String returns "" for zero, so that the help does not show it as a default.
func (d *durationFlag) String() string {
	if *d == 0 {
		return ""
	}
	return integration.FormatDuration(time.Duration(*d))
}

func (*durationFlag) Type() string { return "duration" }

// durationVar defines a flag with a duration. A zero value is not shown as the default.
func durationVar(f *pflag.FlagSet, p *time.Duration, name string, value time.Duration, usage string) {
	*p = value
	f.Var((*durationFlag)(p), name, usage)
}
