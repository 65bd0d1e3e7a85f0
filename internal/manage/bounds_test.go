package manage_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/manage"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// After its first record, a change is made even if its caller cancels the call.
func TestChangeOutlivesItsCaller(t *testing.T) {
	b := newSampleBench(t)
	ctx, leave := context.WithCancel(t.Context())
	b.audit.broken = func(e audit.Event) bool {
		if e.Outcome == audit.Attempted {
			leave()
		}
		return false
	}
	if _, _, err := b.Update(ctx, as(owner), manage.Document{ID: "cspi", DisplayName: "x"}, nil, nil, manage.WriteOptions{}); err != nil {
		t.Errorf("got %v", err)
	}
	lines, _ := b.audit.take(t)
	if got := strings.Join(lines, ", "); got != "UpdateIntegration attempted, UpdateIntegration changed" || b.get(t, "cspi").Document.DisplayName != "x" {
		t.Errorf("recorded %s", got)
	}
}

// A change whose record would be too long for a line is refused.
func TestChangeThatCannotBeRecorded(t *testing.T) {
	b := newSampleBench(t)
	var grants []manage.Grant
	for range 9 {
		grants = append(grants, manage.Grant{Principals: []string{"dns:a"}, Keys: []string{strings.Repeat("k", audit.MaxChange/8)}})
	}
	_, _, err := b.Update(t.Context(), as(owner), manage.Document{ID: "cspi", Grants: grants}, []string{"grants"}, nil, manage.WriteOptions{})
	if err == nil || reasonOf(err) != secret.ReasonInvalidRequest && reasonOf(err) != secret.ReasonInvalidIntegration {
		t.Errorf("got %v", err)
	}
	_, events := b.audit.take(t)
	for _, e := range events {
		if data, err := json.Marshal(e); err != nil || len(data) > audit.MaxChange || e.Outcome == audit.Attempted {
			t.Errorf("%d bytes, %s, %v", len(data), e.Outcome, err)
		}
	}
}

// Validations bypass the queues of stores, so only a few run at a time.
func TestFewValidationsAtATime(t *testing.T) {
	b := newSampleBench(t)
	begun, finish := make(chan struct{}), make(chan struct{})
	b.cfg.Validate = func(context.Context, *integration.Integration) []provider.Step {
		begun <- struct{}{}
		<-finish
		return nil
	}
	s := manage.New(b.cfg)
	var running sync.WaitGroup
	for range 4 {
		running.Go(func() {
			if _, err := s.Validate(t.Context(), as(owner), "cspi"); err != nil {
				t.Error(err)
			}
		})
		<-begun
	}
	if _, err := s.Validate(t.Context(), as(owner), "cspi"); reasonOf(err) != secret.ReasonOverloaded {
		t.Errorf("got %v", err)
	}
	close(finish)
	running.Wait()
}
