package logread

import (
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/audit"
)

// TestChangesAreRecords: records of changes, up to the largest size, are in the same chain
// and are found like all others.
func TestChangesAreRecords(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, audit.Config{Path: path})
	largest := json.RawMessage(`{"a":"` + strings.Repeat(`<`, audit.MaxChange-len(`{"a":""}`)) + `"}`)
	changes := []*audit.Change{
		{After: json.RawMessage(`{"id":"x","grants":[]}`), Fields: []string{"grants"}, Credentials: []string{"azure.credential.client_secret"}},
		{Before: largest, Fields: []string{"a"}, Forced: true},
	}
	for _, c := range changes {
		for _, e := range []audit.Event{{Outcome: audit.Attempted, Change: c}, {Outcome: audit.Changed}} {
			e.Time, e.Method, e.IntegrationID, e.Principal, e.RequestID = day, "UpdateIntegration", "x", "dns:admin", "r"
			if err := l.Write(t.Context(), []audit.Event{e}); err != nil {
				t.Fatal(err)
			}
		}
	}
	closeLog(t, l)
	report, err := Verify(t.Context(), VerifyConfig{}, []string{path})
	if err != nil || report.Break != nil || report.Records < 4 {
		t.Errorf("%+v, %v", report, err)
	}
	var got []*audit.Change
	unreadable, err := Query(context.Background(), &Filter{IntegrationID: "x", Outcomes: []audit.Outcome{audit.Attempted}}, []string{path}, func(r *Record) error {
		got = append(got, r.Change)
		return nil
	})
	if err != nil || unreadable > 0 {
		t.Errorf("%d unreadable, %v", unreadable, err)
	}
	if diff := cmp.Diff(changes, got); diff != "" {
		t.Error(diff)
	}
}
