package server

import (
	"encoding/json"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Problem is a condition that an operator should know about although the broker serves
// calls: a file of an integration that is invalid, for example.
type Problem struct {
	// Component is the part of the broker that has the problem, in lower case.
	Component string `json:"component"`
	// Reason is the kind of the problem, in upper case. docs/operations.md lists the
	// reasons of each component. They are part of the public contract.
	Reason string `json:"reason"`
	// Message tells a person what is wrong and what to do. Its text may change.
	Message string `json:"message"`
}

// Readiness serves /readyz. The zero Readiness is not ready.
type Readiness struct {
	ready atomic.Bool
	// Problems, if not nil, lists the current problems. They never make the broker
	// unready: a mistake of one tenant must not stop the others.
	Problems func() []Problem
	// Refuses, if not nil, reports whether the broker currently refuses every call
	// because of a dependency of its own, as its disk. That makes the broker unready:
	// another replica may succeed.
	Refuses func() bool
}

// Set sets whether the broker accepts calls.
func (r *Readiness) Set(ready bool) { r.ready.Store(ready) }

func (r *Readiness) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	body := struct {
		Status   string    `json:"status"`
		Problems []Problem `json:"problems,omitempty"`
	}{Status: "ready"}
	if r.Problems != nil {
		body.Problems = r.Problems()
	}
	code := http.StatusOK
	if !r.ready.Load() || r.Refuses != nil && r.Refuses() {
		body.Status, code = "not_ready", http.StatusServiceUnavailable
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) // fails only if the prober has disconnected
}

// NewAdmin returns the admin HTTP server: /livez (the process runs), /readyz (it accepts
// calls) and /metrics. It serves no secrets and no profiles.
func NewAdmin(readiness *Readiness, metrics prometheus.Gatherer) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.Handle("GET /readyz", readiness)
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	return &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
}
