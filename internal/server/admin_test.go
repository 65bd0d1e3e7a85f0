package server

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
)

func TestAdmin(t *testing.T) {
	readiness := &Readiness{Problems: func() []Problem { return []Problem{{Component: "integrations", Text: "one is broken"}} }}
	reg := prometheus.NewRegistry()
	newCallMetrics(reg).of("/secretbroker.v1.ResolverService/Resolve").observe(codes.OK, time.Second)
	admin := NewAdmin(readiness, reg)
	get := func(path string) (int, string) {
		w := httptest.NewRecorder()
		admin.Handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Code, w.Body.String()
	}
	if code, body := get("/healthz"); code != 200 || body != "ok\n" {
		t.Errorf("healthz %d %q", code, body)
	}
	if code, body := get("/readyz"); code != 503 || !strings.Contains(body, "not ready") {
		t.Errorf("readyz %d %q", code, body)
	}
	readiness.Set(true)
	if code, body := get("/readyz"); code != 200 || !strings.Contains(body, "one is broken") {
		t.Errorf("readyz %d %q", code, body)
	}
	if code, body := get("/metrics"); code != 200 || !strings.Contains(body, `secretbroker_grpc_calls_total{code="OK",method="secretbroker.v1.ResolverService/Resolve"} 1`) {
		t.Errorf("metrics %d %q", code, body)
	}
	for _, path := range []string{"/", "/debug/pprof/", "/debug/vars"} {
		if code, _ := get(path); code != 404 {
			t.Errorf("%s is served: %d", path, code)
		}
	}
}
