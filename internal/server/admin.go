package server

import (
	"encoding/json"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Problem is something an operator should know of although the broker serves:
// an integration's file that cannot be used, for example.
type Problem struct {
	Component string `json:"component"`
	Text      string `json:"text"`
}

// Readiness is what /readyz says. The zero Readiness is not ready.
type Readiness struct {
	ready atomic.Bool
	// Problems, if not nil, lists what is wrong just now. It never makes the
	// broker unready: one tenant's fault must not stop the others.
	Problems func() []Problem
	// Refuses, if not nil, says whether every call is refused just now, by a
	// dependency of this broker alone. That makes it unready: another one may do
	// better.
	Refuses func() bool
}

// Set says whether the broker takes calls.
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
		body.Status, code = "not ready", http.StatusServiceUnavailable
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) // the prober has gone
}

// NewAdmin makes the admin HTTP server: /healthz (the process lives), /readyz
// (it takes calls) and /metrics. It serves no secrets and no profiles.
func NewAdmin(readiness *Readiness, metrics prometheus.Gatherer) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
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
