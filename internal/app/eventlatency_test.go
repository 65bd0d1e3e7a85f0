package app

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/devmode"
)

// TestEventLatencyOfSources measures the time from the change of an embedded store's file to
// the notice of a watcher, for each kind of source. The rotations are further apart than
// the time within which the broker combines the events of a secret.
func TestEventLatencyOfSources(t *testing.T) {
	if os.Getenv("SECRETBROKER_SCALING") == "" {
		t.Skip("SECRETBROKER_SCALING is not set")
	}
	for _, source := range []struct {
		name, integration string
		options           devmode.Options
		reference, file   func(*broker) string
		// rotated returns what replaces old, which is a part of the file, for rotation n.
		old     string
		rotated func(old string, n int) string
	}{
		{
			"AWS", devmode.AWSIntegrationID, devmode.Options{AWS: true},
			func(*broker) string { return devmode.AWSStore + "::prod/postgres-password" }, func(b *broker) string { return b.AWS.SecretsFile },
			"{value: 'correct-horse-battery-staple'}", func(_ string, n int) string { return fmt.Sprintf("{value: 'correct-horse-battery-%d'}", n) },
		}, {
			"Azure", devmode.IntegrationID, devmode.Options{},
			func(*broker) string { return devmode.VaultURL + "::postgres-password" }, func(b *broker) string { return b.SecretsFile },
			"'correct-horse-battery-staple'", func(_ string, n int) string { return fmt.Sprintf("'correct-horse-battery-%d'", n) },
		}, {
			"Google", devmode.GoogleIntegrationID, devmode.Options{GoogleCloud: true},
			func(*broker) string { return devmode.GoogleProject + "/secrets/postgres-password" }, func(b *broker) string { return b.Google.SecretsFile },
			"{value: 'correct-horse-battery-staple'}", func(old string, n int) string { return fmt.Sprintf("%s, {value: 'correct-horse-battery-%d'}", old, n) },
		}, {
			"local file", devmode.LocalIntegrationID, devmode.Options{LocalFiles: true},
			func(b *broker) string { return b.Local.Reference }, func(b *broker) string { return b.Local.File },
			"password=localPassw0rdExamp1e", func(_ string, n int) string { return fmt.Sprintf("password=local%d", n) },
		},
	} {
		t.Run(source.name, func(t *testing.T) {
			t.Parallel()
			const rotations = 100
			b := startEventsBroker(t, source.options, nil)
			stream, err := secretbrokerv1.NewWatchServiceClient(dialBroker(t, b.addr, b.CAFile, b.Worker)).Watch(t.Context(), &secretbrokerv1.WatchRequest{
				Sets: []*secretbrokerv1.WatchSet{{IntegrationId: source.integration, Configs: map[string]string{"p": source.reference(b)}}}})
			if err != nil {
				t.Fatal(err)
			}
			await := func(state secretbrokerv1.Notice_State) {
				t.Helper()
				for {
					m, err := stream.Recv()
					if err != nil {
						t.Fatal(err)
					}
					for _, n := range m.GetNotices() {
						if n.GetState() == state {
							return
						}
					}
				}
			}
			await(secretbrokerv1.Notice_STATE_CURRENT)
			pause := time.NewTimer(5 * time.Second) // the source is open by then
			defer pause.Stop()
			var delays []time.Duration
			old := source.old
			for n := range rotations {
				<-pause.C
				changed := time.Now()
				next := source.rotated(old, n)
				if err := edit(source.file(b), old, next); err != nil {
					t.Fatal(err)
				}
				await(secretbrokerv1.Notice_STATE_CHANGED)
				delays = append(delays, time.Since(changed))
				old = next
				pause.Reset(2500*time.Millisecond + time.Duration(n*37%1000)*time.Millisecond)
			}
			slices.Sort(delays)
			t.Logf("%s: p50 %v, p99 %v, last %v", source.name, delays[rotations/2].Round(time.Millisecond), delays[rotations*99/100-1].Round(time.Millisecond), delays[rotations-1].Round(time.Millisecond))
		})
	}
}
