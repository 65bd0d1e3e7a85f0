package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/devmode"
)

// watchedTTL is the time-to-live of the integration whose secrets are watched.
const watchedTTL = 2 * time.Second

// watchRotations makes the victim watch one secret, changes it again and again, and measures
// how long it takes until the victim is told.
func watchRotations(ctx context.Context, r *running) error {
	conn, err := r.bed.dial(r.bed.broker, r.bed.victim)
	if err != nil {
		return err
	}
	defer conn.Close()
	// The victim waits for its last notice, which the attack must not delay for long.
	streaming, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.options.attack+revocationWait)
	defer cancel()
	var stream interface {
		Recv() (*secretbrokerv1.WatchResponse, error)
	}
	reason := insist(streaming, func() error {
		s, err := secretbrokerv1.NewWatchServiceClient(conn).Watch(streaming, &secretbrokerv1.WatchRequest{Sets: []*secretbrokerv1.WatchSet{
			{IntegrationId: "watched", Configs: map[string]string{"password": devmode.VaultURL + "::v-0"}},
		}})
		if err == nil {
			_, err = s.Recv()
		}
		stream = s
		return err
	})
	if reason != "" {
		return fmt.Errorf("the victim could not watch: %s", reason)
	}
	var worst time.Duration
	for n := 1; ctx.Err() == nil; n++ {
		pause(ctx, 200*time.Millisecond)
		if err := r.bed.rotate(n); err != nil {
			return err
		}
		begin := time.Now()
		m, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("the victim's stream ended: %w", err)
		}
		if notices := m.GetNotices(); len(notices) != 1 || notices[0].GetState() != secretbrokerv1.Notice_STATE_CHANGED {
			return fmt.Errorf("the victim was told %v", notices)
		}
		worst = max(worst, time.Since(begin))
	}
	most := watchedTTL + time.Second
	if r.options.slack {
		most += 4 * time.Second
	}
	if worst == 0 {
		return errors.New("no rotation was told")
	}
	r.figure("until the victim was told of a rotation", "s", worst.Seconds(), most.Seconds())
	return nil
}

// judgeKept reports what the broker keeps of the attackers' streams when these have ended.
func judgeKept(r *running) {
	items := -1.0
	for end := time.Now().Add(5 * time.Second); items != 0 && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		items = r.bed.broker.metric("secretbroker_watch_items")
	}
	if items < 0 {
		r.fail("the broker has no metric of watched items")
	}
	r.figure("configs that are watched after the attack", "", items, 0)
	if r.Attackers["streams"]+r.Attackers["INVALID_REQUEST"] == 0 {
		r.fail("nothing was attacked")
	}
}

// metric returns a metric without labels, -1 if there is none.
func (p *broker) metric(name string) float64 {
	resp, err := http.Get("http://" + p.admin + "/metrics")
	if err != nil {
		return -1
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body) // a part has the metric, or not
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			if v, err := strconv.ParseFloat(strings.TrimSpace(value), 64); err == nil {
				return v
			}
		}
	}
	return -1
}

// rotate gives the first secret of the embedded Key Vault its n-th value.
func (b *bed) rotate(n int) error {
	file := b.world.Env.SecretsFile
	return errors.Join(os.WriteFile(file+".new", b.vaultSecrets(n), 0o600), os.Rename(file+".new", file))
}

// vaultSecrets returns the content of the embedded Key Vault, which takes 10 ms for each read.
func (b *bed) vaultSecrets(n int) []byte {
	var vault strings.Builder
	name := strings.TrimSuffix(strings.TrimPrefix(devmode.VaultURL, "https://"), ".vault.azure.net")
	fmt.Fprintf(&vault, "vaults:\n  %s:\n    delay: 10ms\n    secrets:\n      v-0: {value: correct-horse-0-%d}\n", name, n)
	for i := 1; i < 64; i++ {
		fmt.Fprintf(&vault, "      v-%d: {value: correct-horse-%d}\n", i, i)
	}
	return []byte(vault.String())
}
