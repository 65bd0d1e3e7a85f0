// Package connecttest has the REST API of a Kafka Connect cluster for tests: connectors that
// run no code, but restart as slowly as asked for, and misbehave in the ways of real ones.
package connecttest

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/connectapi"
)

// Cluster is a cluster. It is an http.Handler, and an http.RoundTripper that transfers
// nothing over a network, for tests with testing/synctest. It is safe for concurrent use.
type Cluster struct {
	// RestartTime is how long a connector is RESTARTING after an accepted request.
	RestartTime time.Duration
	// Start, if not nil, is called when a connector or one of its tasks (-1 is the connector)
	// starts on a worker. If it returns false, it is FAILED.
	Start func(connector string, task int, worker string) bool
	// Intercept, if not nil, may answer a request with a status other than zero, or wait for
	// the end of the request.
	Intercept func(r *http.Request) (status int)

	mu         sync.Mutex
	connectors map[string]*connectapi.Connector
	restarts   []string
	stuck      map[string]bool
}

// Put adds or replaces a connector, RUNNING on the workers, which take turns.
func (c *Cluster) Put(name string, config map[string]string, tasks int, workers ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.connectors == nil {
		c.connectors, c.stuck = make(map[string]*connectapi.Connector), make(map[string]bool)
	}
	it := &connectapi.Connector{Name: name, Config: config}
	it.State, it.WorkerID = connectapi.StateRunning, workers[0]
	for id := range tasks {
		it.Tasks = append(it.Tasks, connectapi.Task{ID: id, State: connectapi.StateRunning, WorkerID: workers[(id+1)%len(workers)]})
	}
	c.connectors[name] = it
}

// SetState sets the state of a connector (task -1) or of a task.
func (c *Cluster) SetState(name string, task int, state string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.set(name, task, state)
}

func (c *Cluster) set(name string, task int, state string) {
	if task < 0 {
		c.connectors[name].State = state
		return
	}
	c.connectors[name].Tasks[task].State = state
}

// Remove deletes a connector.
func (c *Cluster) Remove(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.connectors, name)
}

// Stick makes a connector stay RESTARTING after the next restart, as Connect does if it
// cannot resolve the configuration.
func (c *Cluster) Stick(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stuck[name] = true
}

// Restarts returns the names of the accepted requests to restart, in their order.
func (c *Cluster) Restarts() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.restarts)
}

// RoundTrip implements http.RoundTripper.
func (c *Cluster) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	c.ServeHTTP(w, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return w.Result(), nil
}

func (c *Cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if c.Intercept != nil {
		if status := c.Intercept(r); status != 0 {
			w.WriteHeader(status)
			return
		}
	}
	rest, ok := strings.CutPrefix(r.URL.EscapedPath(), "/connectors")
	name, action, _ := strings.Cut(strings.TrimPrefix(rest, "/"), "/")
	name, err := url.PathUnescape(name)
	c.mu.Lock()
	defer c.mu.Unlock()
	it := c.connectors[name]
	switch {
	case !ok || err != nil || name != "" && it == nil:
		w.WriteHeader(http.StatusNotFound)
	case name == "":
		all := make(map[string]any)
		for _, it := range c.connectors {
			all[it.Name] = map[string]any{"info": info(it), "status": status(it)}
		}
		write(w, http.StatusOK, all)
	case action == "" && r.Method == http.MethodGet:
		write(w, http.StatusOK, info(it))
	case action == "status":
		write(w, http.StatusOK, status(it))
	case action == "restart" && r.Method == http.MethodPost:
		q := r.URL.Query()
		if q.Get("includeTasks") != "true" || q.Get("onlyFailed") != "false" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		c.restart(it)
		write(w, http.StatusAccepted, status(it))
	default:
		w.WriteHeader(http.StatusMethodNotAllowed)
	}
}

func (c *Cluster) restart(it *connectapi.Connector) {
	c.restarts = append(c.restarts, it.Name)
	it.State = connectapi.StateRestarting
	for i := range it.Tasks {
		it.Tasks[i].State = connectapi.StateRestarting
	}
	if c.stuck[it.Name] {
		return
	}
	name := it.Name
	time.AfterFunc(c.RestartTime, func() { c.start(name) })
}

// start starts a connector and its tasks.
func (c *Cluster) start(name string) {
	c.mu.Lock()
	it := c.connectors[name]
	workers := make(map[int]string)
	if it != nil {
		workers[-1] = it.WorkerID
		for _, t := range it.Tasks {
			workers[t.ID] = t.WorkerID
		}
	}
	c.mu.Unlock()
	for _, task := range slices.Sorted(maps.Keys(workers)) {
		state := connectapi.StateRunning
		if c.Start != nil && !c.Start(name, task, workers[task]) {
			state = connectapi.StateFailed
		}
		c.mu.Lock()
		if c.connectors[name] != nil {
			c.set(name, task, state)
		}
		c.mu.Unlock()
	}
}

func info(it *connectapi.Connector) any {
	return map[string]any{"name": it.Name, "config": it.Config, "type": "sink"}
}

func status(it *connectapi.Connector) any {
	tasks := []any{}
	for _, t := range it.Tasks {
		tasks = append(tasks, map[string]any{"id": t.ID, "state": t.State, "worker_id": t.WorkerID})
	}
	return map[string]any{"name": it.Name, "connector": map[string]any{"state": it.State, "worker_id": it.WorkerID}, "tasks": tasks}
}

func write(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // to memory, or to a test
}
