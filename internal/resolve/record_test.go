package resolve_test

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// TestGoneCallerIsRecorded: a decision is recorded although its caller has disconnected.
func TestGoneCallerIsRecorded(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, req := range map[string]resolve.Request{
		"denied":   {ID: "r", IntegrationID: "none", Configs: map[string]string{"p": vault + "::plain"}},
		"failed":   {ID: "r", IntegrationID: "cspi", Configs: map[string]string{"p": vault + "::plain"}},
		"rejected": {ID: "r"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			if _, err := b.Resolve(ctx, resolve.Caller{Principal: worker}, req); err == nil {
				t.Error("no error")
			}
			if events := b.events(t); len(events) != 1 || string(events[0].Outcome) != name {
				t.Errorf("got %+v", events)
			}
		})
	}
}

// stuckFile is a file whose writes block until it is closed.
type stuckFile chan struct{}

func (f stuckFile) Write([]byte) (int, error) {
	<-f
	return 0, io.ErrClosedPipe
}

// TestStuckAudit: if the log's writes block, the call fails after two seconds.
func TestStuckAudit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		file := make(stuckFile)
		log := audit.New(file)
		defer log.Close()
		defer close(file)
		b.broken.AuditLog = log
		start := time.Now()
		res, err := b.call(worker, resolve.Request{AllowPartial: true, Configs: map[string]string{"p": vault + "::plain"}})
		if res != nil || secret.AsError(err).Reason != secret.ReasonAuditUnavailable {
			t.Errorf("got %v, %v", res, err)
		}
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("took %v", took)
		}
	})
}
