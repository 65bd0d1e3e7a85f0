package server

import (
	"strings"
	"testing"
	"time"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/watch"
)

// TestRefresh: the answer has the version and the time for not_read_before, and no value.
func TestRefresh(t *testing.T) {
	ts := startWatched(t, watch.Config{})
	client := secretbrokerv1.NewWatchServiceClient(ts.dial(t, ts.ca.Client(string(granted))))
	req := &secretbrokerv1.RefreshRequest{IntegrationId: "it", Configs: map[string]string{"p": watchedStore + "::s", "q": "no reference"}}
	res, err := client.Refresh(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	p, q := res.GetConfigs()["p"], res.GetConfigs()["q"]
	if p.GetVersion() != "v1" || time.Since(p.GetFetchTime().AsTime()) > time.Minute || p.GetError() != nil || q.GetError().GetReason() != "INVALID_REFERENCE" || q.GetFetchTime() != nil {
		t.Errorf("got %v", res)
	}
	if res.GetCoverage() != secretbrokerv1.RefreshResponse_COVERAGE_THIS_REPLICA || len(res.GetRequestId()) != 32 || strings.Contains(res.String(), "canary") {
		t.Errorf("got %v", res)
	}
	denied := secretbrokerv1.NewWatchServiceClient(ts.dial(t, ts.ca.Client("spiffe://example.org/elsewhere")))
	if res, err := denied.Refresh(t.Context(), req); err != nil || res.GetConfigs()["p"].GetError().GetReason() != "ACCESS_DENIED" {
		t.Errorf("got %v, %v", res, err)
	}
}
