package campaign

import (
	"fmt"

	"github.com/secretbroker/secretbroker/internal/connectapi"
)

// conditions are the states of a connector and its tasks, each "" or the parts that are in it.
type conditions struct {
	failed, stuck, stopped, strange string
}

func (c *conditions) running() bool { return *c == conditions{} }

// condition returns the worst states of a connector and its tasks.
func condition(s *connectapi.Status) conditions {
	var c conditions
	add := func(what, state, worker string) {
		text := fmt.Sprintf("%s is %s on worker %s", what, state, worker)
		switch state {
		case connectapi.StateRunning:
		case connectapi.StateFailed:
			keep(&c.failed, text)
		case connectapi.StateRestarting, connectapi.StateUnassigned:
			keep(&c.stuck, text)
		case connectapi.StatePaused, connectapi.StateStopped:
			keep(&c.stopped, text)
		default:
			keep(&c.strange, fmt.Sprintf("%s has an unknown state on worker %s", what, worker))
		}
	}
	add("the connector", s.State, s.WorkerID)
	for _, t := range s.Tasks {
		add(fmt.Sprintf("task %d", t.ID), t.State, t.WorkerID)
	}
	return c
}

// keep keeps the first text.
func keep(to *string, text string) {
	if *to == "" {
		*to = text
	}
}

// workers returns the workers that run a connector or its tasks, each once, in their order.
func workers(s *connectapi.Status) []string {
	var list []string
	seen := map[string]bool{"": true}
	add := func(id string) {
		if !seen[id] {
			seen[id] = true
			list = append(list, id)
		}
	}
	add(s.WorkerID)
	for _, t := range s.Tasks {
		add(t.WorkerID)
	}
	return list
}
