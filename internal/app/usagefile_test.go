package app

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/devmode"
)

// TestUsageOfFilesSurvivesRestarts: a broker with integrations in files tells after a restart who
// used them before, and since when it records. A damaged database does not stop it.
func TestUsageOfFilesSurvivesRestarts(t *testing.T) {
	dir := t.TempDir()
	run := func(resolve bool) (in *client.Integration, log string) {
		t.Helper()
		b, err := startBroker(context.Background(), dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := b.stop(); err != nil {
				t.Error(err)
			}
			log = b.log.String()
		}()
		if resolve {
			if _, err := b.as(t, b.Worker).Resolve(t.Context(), sample); err != nil {
				t.Fatal(err)
			}
		}
		res, err := b.as(t, b.Owner).GetIntegration(t.Context(), client.GetIntegrationRequest{IntegrationID: devmode.IntegrationID})
		if err != nil {
			t.Fatal(err)
		}
		return res.Integration, ""
	}
	first, _ := run(true)
	if first.UsageRecording.RecordedSince.IsZero() || !first.UsageRecording.ReplicaOnly {
		t.Errorf("recording: %+v", first.UsageRecording)
	}
	second, _ := run(false)
	if second.LastUseTime.IsZero() || !second.UsageRecording.RecordedSince.Equal(first.UsageRecording.RecordedSince) {
		t.Errorf("after a restart: last used %v, %+v, before %+v", second.LastUseTime, second.UsageRecording, first.UsageRecording)
	}
	file := filepath.Join(dir, "audit.jsonl.usage")
	if err := os.WriteFile(file, []byte(strings.Repeat("damaged ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	third, log := run(true)
	if !third.UsageRecording.RecordedSince.After(first.UsageRecording.RecordedSince) || !strings.Contains(log, "the database of usage is damaged") {
		t.Errorf("with a damaged database: %+v\n%s", third.UsageRecording, log)
	}
	// Nothing can be kept: recording begins with each start.
	if err := os.RemoveAll(file); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(file, 0o700); err != nil {
		t.Fatal(err)
	}
	fourth, log := run(true)
	if !fourth.UsageRecording.RecordedSince.After(third.UsageRecording.RecordedSince) || !strings.Contains(log, "usage is recorded in memory") {
		t.Errorf("without a database: %+v\n%s", fourth.UsageRecording, log)
	}
}
