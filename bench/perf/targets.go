package main

import (
	"fmt"
	"io"
	"slices"
	"time"
)

// verdict is the result of a target.
type verdict struct {
	target, got string
	met         bool
}

const notMeasured = "not measured"

// ratioTarget is a limit on the median of the ratios in the same round.
type ratioTarget struct {
	part, shape, figure string
	server, base        string
	atLeast, atMost     float64 // one of them is set
	text                string
}

// ratioTargets are the targets that limit a ratio.
var ratioTargets = []ratioTarget{
	{partLoads, "4x64", throughput, serverBroker, serverUnsynced, 0.95, 0, "4x64: throughput >= 0.95 x that of the unsynced broker"},
	{partLoads, "4x64", throughput, serverBroker, serverFloor, 0.75, 0, "4x64: throughput >= 0.75 x the floor's"},
	{partLoads, "4x64", cpuPerCall, serverBroker, serverFloor, 0, 1.15, "4x64: CPU <= 1.15 x the floor's"},
	{partLoads, "4x64", cpuPerCall, serverBroker, serverFloor, 0, 0.80, "4x64: CPU <= 0.80 x the floor's (moonshot)"},
	{partLoads, "4x4", throughput, serverBroker, serverFloor, 0.5, 0, "4x4: throughput >= 0.5 x the floor's"},
	{partLoads, "4x4", cpuPerCall, serverBroker, serverFloor, 0, 1.8, "4x4: CPU <= 1.8 x the floor's"},
	{partLoads, "64x64", rss, serverBroker, serverFloor, 0, 2.5, "64x64: RSS <= 2.5 x the floor's"},
	{partConfigs, "4x4", cpuPerCall, serverBroker, serverFloor, 0, 1.8, "64 configs in a call, 4x4: CPU <= 1.8 x that of the floor that answers as many"},
	{partSecrets, secretsShape, cpuPerCall, secretsName(serverBroker, manySecrets), secretsName(serverBroker, fewSecrets), 0, 1.15, "10,000 cached secrets: CPU <= 1.15 x that with 10"},
}

// verdict returns the result; ok is false if the target was not part of the measurement.
func (t *ratioTarget) verdict(m *matrixResults, p placement) (v verdict, ok bool) {
	g := m.find(p.Name, t.part, t.shape)
	if g == nil {
		return verdict{}, false
	}
	low, ratio, high := quartiles(g.ratios(t.server, t.base, t.figure))
	if ratio == 0 {
		return verdict{t.text, notMeasured, false}, true
	}
	met := ratio >= t.atLeast
	if t.atMost > 0 {
		met = ratio <= t.atMost
	}
	return verdict{t.text, fmt.Sprintf("%.2f [%.2f-%.2f]", ratio, low, high), met}, true
}

// delayed returns the verdicts for an fsync delay: each call in flight waits at most 12 ms,
// unless the CPU is the limit, and none is refused. The CPU's limit is the throughput of the
// unsynced broker times the tolerance of the first target.
func delayed(m *matrixResults, p placement, delay, perCall time.Duration) (all []verdict) {
	if !slices.Contains(m.Delays, delay) {
		return nil
	}
	for _, shape := range []string{"1x1", "4x4", "4x64", "64x64"} {
		g := m.find(p.Name, partLoads, shape)
		if g == nil {
			continue
		}
		w, err := shaped(shape, "")
		if err != nil {
			continue
		}
		_, got, _ := quartiles(g.values(brokerNamed(delay), throughput))
		_, refused, _ := quartiles(g.values(brokerNamed(delay), refusals))
		_, failed, _ := quartiles(g.values(brokerNamed(delay), failures))
		_, most, _ := quartiles(g.values(serverUnsynced, throughput))
		want := min(float64(w.connections*w.inFlight)/perCall.Seconds(), 0.95*most)
		if got == 0 || most == 0 {
			all = append(all, verdict{fmt.Sprintf("fsync + %v, %s", delay, shape), notMeasured, false})
			continue
		}
		all = append(all, verdict{
			fmt.Sprintf("fsync + %v, %s: >= %.0f calls/s (calls in flight / %v, at most 0.95 x the unsynced broker's), 0 refused", delay, shape, want, perCall),
			fmt.Sprintf("%.0f calls/s, %.2f %% refused, %.2f %% failed", got, refused, failed), got >= want && refused == 0 && failed == 0,
		})
	}
	return all
}

// latency returns the verdict on the p99 at half of the capacity, which may be 1.3 times the
// floor's plus two fsyncs.
func latency(m *matrixResults, p placement, delay time.Duration) (verdict, bool) {
	broker := brokerNamed(delay)
	g := m.find(p.Name, partHalf, halfShape(broker))
	if g == nil {
		return verdict{}, false
	}
	_, got, _ := quartiles(g.values(broker, p99))
	_, floor, _ := quartiles(g.values(serverFloor, p99))
	if got == 0 || floor == 0 {
		return verdict{}, false
	}
	bound := func(floor float64) float64 { return 1.3*floor + 2*(m.syncMicros()+micros(delay)) }
	var parts []float64 // ratios to the limit in the same round
	for i, s := range g.Samples[broker] {
		if of := g.Samples[serverFloor]; i < len(of) && s != nil && of[i] != nil {
			parts = append(parts, s[p99]/bound(of[i][p99]))
		}
	}
	low, part, high := quartiles(parts)
	disk := ""
	if delay > 0 {
		disk = fmt.Sprintf(", fsync + %v", delay)
	}
	return verdict{
		fmt.Sprintf("half of the capacity (%s)%s: p99 <= 1.3 x the floor's + 2 fsync", g.Offered, disk),
		fmt.Sprintf("%.2f [%.2f-%.2f] of the bound; p99 %.0f µs, the floor's %.0f µs", part, low, high, got, floor), part > 0 && part <= 1,
	}, true
}

// verdicts returns the results of all targets on a placement.
func (m *matrixResults) verdicts(p placement) (all []verdict) {
	for i := range ratioTargets {
		if v, ok := ratioTargets[i].verdict(m, p); ok {
			all = append(all, v)
		}
	}
	for _, d := range m.Delays {
		if v, ok := latency(m, p, d); ok {
			all = append(all, v)
		}
	}
	return append(all, delayed(m, p, 5*time.Millisecond, 12*time.Millisecond)...)
}

// printTargets writes a table of the targets and their results.
func (m *matrixResults) printTargets(w io.Writer) {
	fmt.Fprint(w, "\n| CPUs | target | result | met |\n|---|---|---|---|\n")
	for _, p := range m.Placements {
		name := p.Name
		if p.Shared {
			name += " (shared with the load)"
		}
		for _, v := range m.verdicts(p) {
			met := "**no**"
			if v.met {
				met = "yes"
			}
			fmt.Fprintf(w, "| %s | %s | %s | %s |\n", name, v.target, v.got, met)
		}
	}
}
