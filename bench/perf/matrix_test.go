package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestPlacements(t *testing.T) {
	for _, test := range []struct {
		name string
		cpus []int
		want []placement
	}{
		{"one CPU", []int{3}, []placement{{"1", "3", "3", true}}},
		{"two", []int{0, 1}, []placement{{"1", "0", "1", false}, {"2", "0,1", "0,1", true}}},
		{"three", []int{0, 1, 2}, []placement{{"1", "0", "1", false}, {"2", "0,1", "2", false}, {"all", "0,1,2", "0,1,2", true}}},
		{"eight, not from the first", []int{2, 3, 4, 5, 6, 7, 8, 9}, []placement{{"1", "2", "3", false}, {"2", "2,3", "4,5", false}, {"all", "2,3,4,5,6,7,8,9", "2,3,4,5,6,7,8,9", true}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, placements(test.cpus)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// measured is a matrix of one placement in which everything meets its target, as it
// is after it was saved and read again.
func measured(t *testing.T, change func(*matrixResults)) *matrixResults {
	t.Helper()
	m := &matrixResults{results: *newResults(conditions{rounds: 3}), Placements: []placement{{"1", "0", "1", false}}, Delays: []time.Duration{0, 5 * time.Millisecond}, SyncMicros: []float64{100, 200, 300}}
	group := func(part, shape string, servers map[string]sample) {
		g := &group{Placement: "1", Part: part, Shape: shape, Samples: make(map[string][]sample)}
		for name, s := range servers {
			for range 3 {
				g.add(name, s)
			}
		}
		m.Groups = append(m.Groups, g)
	}
	for _, shape := range []string{"1x1", "4x4", "4x64", "64x64"} {
		group(partLoads, shape, map[string]sample{
			serverFloor:                       {throughput: 10000, cpuPerCall: 10, rss: 20},
			serverUnsynced:                    {throughput: 9000, cpuPerCall: 8, rss: 30},
			serverBroker:                      {throughput: 9000, cpuPerCall: 8, rss: 30},
			brokerNamed(5 * time.Millisecond): {throughput: 8800, cpuPerCall: 8, rss: 30},
		})
	}
	group(partConfigs, "4x4", map[string]sample{serverFloor: {cpuPerCall: 100}, serverBroker: {cpuPerCall: 170}})
	group(partSecrets, secretsShape, map[string]sample{secretsName(serverBroker, fewSecrets): {cpuPerCall: 10}, secretsName(serverBroker, manySecrets): {cpuPerCall: 11}})
	for _, d := range m.Delays {
		group(partHalf, halfShape(brokerNamed(d)), map[string]sample{serverFloor: {p99: 1000}, brokerNamed(d): {p99: 1500 + 2*micros(d)}})
	}
	if change != nil {
		change(m)
	}
	data, err := json.Marshal(m)
	var read matrixResults
	if err == nil {
		err = json.Unmarshal(data, &read)
	}
	if err != nil {
		t.Fatal(err)
	}
	return &read
}

func TestTargets(t *testing.T) {
	set := func(part, shape, server, figure string, value float64) func(*matrixResults) {
		return func(m *matrixResults) { m.find("1", part, shape).Samples[server][0][figure] = value } // one map in all rounds
	}
	delayedBroker := brokerNamed(5 * time.Millisecond)
	for _, test := range []struct {
		name   string
		change func(*matrixResults)
		missed []string // how their targets begin
	}{
		{"everything is met", nil, nil},
		{"too slow", set(partLoads, "4x64", serverBroker, throughput, 7000), []string{"4x64: throughput >= 0.95", "4x64: throughput >= 0.75"}},
		{"too much CPU", set(partLoads, "4x4", serverBroker, cpuPerCall, 19), []string{"4x4: CPU"}},
		{"too much memory", set(partLoads, "64x64", serverBroker, rss, 51), []string{"64x64: RSS"}},
		{"many configs", set(partConfigs, "4x4", serverBroker, cpuPerCall, 181), []string{"64 configs"}},
		{"many secrets", set(partSecrets, secretsShape, secretsName(serverBroker, manySecrets), cpuPerCall, 12), []string{"10,000 cached"}},
		{"a long tail", set(partHalf, halfShape(serverBroker), serverBroker, p99, 1701), []string{"half of the capacity ()"}},
		{"a long tail on a slow disk", set(partHalf, halfShape(delayedBroker), delayedBroker, p99, 11701), []string{"half of the capacity (), fsync + 5ms"}},
		{"slow on a slow disk", set(partLoads, "4x4", delayedBroker, throughput, 1333), []string{"fsync + 5ms, 4x4"}},
		{"refused on a slow disk", set(partLoads, "64x64", delayedBroker, refusals, 0.1), []string{"fsync + 5ms, 64x64"}},
		{"one round is missing", func(m *matrixResults) { m.find("1", partLoads, "4x64").Samples[serverBroker][1] = nil }, nil},
		{"nothing came of it", func(m *matrixResults) { m.find("1", partConfigs, "4x4").Samples[serverBroker] = []sample{nil} }, []string{"64 configs"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var missed []string
			verdicts := measured(t, test.change).verdicts(placement{Name: "1"})
			if len(verdicts) != len(ratioTargets)+2+4 {
				t.Errorf("%d targets", len(verdicts))
			}
			for _, v := range verdicts {
				if !v.met {
					missed = append(missed, v.target)
				}
			}
			if len(missed) != len(test.missed) {
				t.Fatalf("missed %q, want %q", missed, test.missed)
			}
			for i := range missed {
				if !strings.HasPrefix(missed[i], test.missed[i]) {
					t.Errorf("missed %q, want %q", missed, test.missed)
				}
			}
		})
	}
}

func TestReplaceBlock(t *testing.T) {
	m := measured(t, nil)
	text := "before\n" + docsBegin + "old\n" + docsEnd + "after\n"
	once, err := replaceBlock([]byte(text), m)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"before\n" + docsBegin, docsEnd + "after\n", "| 4x64 | floor |", "an fsync takes 200 µs"} {
		if !strings.Contains(string(once), want) {
			t.Errorf("%q is not in\n%s", want, once)
		}
	}
	twice, err := replaceBlock(once, m)
	if err != nil || !bytes.Equal(once, twice) || strings.Contains(string(once), "old") {
		t.Errorf("it is not replaced: %v\n%s", err, twice)
	}
	if _, err := replaceBlock([]byte("no block"), m); err == nil {
		t.Error("a document without the lines is taken")
	}
}
