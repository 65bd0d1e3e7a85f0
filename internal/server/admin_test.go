package server

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
)

func TestAdmin(t *testing.T) {
	readiness := &Readiness{Problems: func() []Problem {
		return []Problem{{Component: "integrations", Reason: "INVALID_INTEGRATION", Message: "one is broken"}}
	}}
	reg := prometheus.NewRegistry()
	newCallMetrics(reg).of("/secretbroker.v1.ResolverService/Resolve").observe(codes.OK, time.Second)
	admin := NewAdmin(readiness, reg)
	get := func(path string) (int, string) {
		w := httptest.NewRecorder()
		admin.Handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Code, w.Body.String()
	}
	if code, body := get("/livez"); code != 200 || body != "ok\n" {
		t.Errorf("livez %d %q", code, body)
	}
	if code, body := get("/readyz"); code != 503 || !strings.Contains(body, `"status":"not_ready"`) {
		t.Errorf("readyz %d %q", code, body)
	}
	readiness.Set(true)
	if code, body := get("/readyz"); code != 200 || !strings.Contains(body, "one is broken") {
		t.Errorf("readyz %d %q", code, body)
	}
	if code, body := get("/metrics"); code != 200 || !strings.Contains(body, `secretbroker_grpc_calls_total{code="OK",method="secretbroker.v1.ResolverService/Resolve"} 1`) {
		t.Errorf("metrics %d %q", code, body)
	}
	for _, path := range []string{"/", "/healthz", "/debug/pprof/", "/debug/vars"} {
		if code, _ := get(path); code != 404 {
			t.Errorf("%s is served: %d", path, code)
		}
	}
}

// TestReadyzGolden fixes the three shapes of /readyz, which monitoring parses.
func TestReadyzGolden(t *testing.T) {
	problems := []Problem{
		{Component: "tls", Reason: "CERTIFICATE_EXPIRES_SOON", Message: "the broker's own certificate expires soon; renew it"},
		{Component: "audit", Reason: "AUDIT_UNAVAILABLE", Message: "the last write failed"},
	}
	var text strings.Builder
	for _, r := range []*Readiness{
		{},
		{Problems: func() []Problem { return problems[:1] }},
		{Problems: func() []Problem { return problems }, Refuses: func() bool { return true }},
	} {
		r.Set(true)
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
		fmt.Fprintf(&text, "%d %s\n%s", w.Code, w.Header().Get("Content-Type"), w.Body)
	}
	golden(t, "../readyz.golden", text.String())
}
