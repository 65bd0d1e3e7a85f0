package main

import (
	"strconv"
	"strings"
)

// placement assigns CPUs to the servers and to the load. Go sets GOMAXPROCS to the number of
// CPUs that a process may use.
type placement struct {
	// Name is the number of CPUs of the servers, or "all".
	Name   string `json:"name"`
	Server string `json:"server"`
	Load   string `json:"load"`
	// Shared reports that the load has no CPUs of its own.
	Shared bool `json:"shared,omitempty"`
}

// placements returns the possible placements on the given CPUs: one, two and all of them for
// the servers. The load has as many other CPUs if possible, otherwise the remaining ones, and
// if there are none, the same ones.
func placements(cpus []int) []placement {
	list := func(cpus []int) string {
		var numbers []string
		for _, n := range cpus {
			numbers = append(numbers, strconv.Itoa(n))
		}
		return strings.Join(numbers, ",")
	}
	var all []placement
	for n := 1; n <= min(2, len(cpus)); n++ {
		p := placement{Name: strconv.Itoa(n), Server: list(cpus[:n]), Load: list(cpus[n:min(2*n, len(cpus))])}
		if p.Load == "" {
			p.Load, p.Shared = p.Server, true
		}
		all = append(all, p)
	}
	if len(cpus) > 2 {
		all = append(all, placement{Name: "all", Server: list(cpus), Load: list(cpus), Shared: true})
	}
	return all
}

// placementNamed returns the placement with that name, or the last one.
func placementNamed(all []placement, name string) placement {
	for _, p := range all {
		if p.Name == name {
			return p
		}
	}
	return all[len(all)-1]
}

func (p placement) String() string {
	cpus := "1 CPU"
	if n := strings.Count(p.Server, ",") + 1; n > 1 {
		cpus = strconv.Itoa(n) + " CPUs"
	}
	if p.Shared {
		return cpus + " for the servers, shared with the load"
	}
	return cpus + " for the servers, the load on " + strconv.Itoa(strings.Count(p.Load, ",")+1) + " of its own"
}
