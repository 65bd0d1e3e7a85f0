package main

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"time"
)

// looks returns looks at intervals of five seconds with the given MiB of memory.
func looks(n int, mib func(i int) float64) []look {
	all := make([]look, n)
	for i := range all {
		all[i] = look{after: time.Duration(i) * 5 * time.Second}
		all[i].values[0] = mib(i) * (1 << 20)
	}
	return all
}

func TestVerdict(t *testing.T) {
	saw := func(i int) float64 { return 20 * math.Abs(math.Mod(float64(i)/4, 2)-1) }
	for _, test := range []struct {
		name  string
		looks []look
		want  string
	}{
		{"the same all the time", looks(60, func(int) float64 { return 300 }), "flat"},
		{"up and down", looks(60, func(i int) float64 { return 300 + saw(i) }), "flat"},
		{"growth in the first half alone", looks(60, func(i int) float64 { return 300 + min(float64(i), 30)*5 }), "flat"},
		{"less and less", looks(60, func(i int) float64 { return 300 - float64(i) }), "flat"},
		{"growth", looks(60, func(i int) float64 { return 300 + 3*float64(i) + saw(i) }), "GROWS"},
		{"more ups and downs than growth", looks(12, func(i int) float64 { return 300 + 3*float64(i) + 10*saw(3*i) }), "unclear"},
		{"a few looks", looks(8, func(int) float64 { return 300 }), "too short"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out bytes.Buffer
			printVerdict(&out, test.looks)
			got := out.String()
			for row := range strings.Lines(out.String()) {
				if strings.HasPrefix(row, "| RSS") {
					got = row
				}
			}
			if !strings.Contains(got, test.want) {
				t.Errorf("got %q, want %s", got, test.want)
			}
		})
	}
}
