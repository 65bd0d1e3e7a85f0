//go:build unix

package app

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/client"
	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/devmode"
)

// rotation is a secret that two replicas have in their caches.
type rotation struct {
	*cluster
	value string
}

const rotatedRef = devmode.VaultURL + "::sqlserver-db-secret::password"

// rotate stores another value, and returns when the store answers it.
func (r *rotation) rotate(value string) {
	r.t.Helper()
	if err := edit(r.SecretsFile, r.value, value); err != nil {
		r.t.Fatal(err)
	}
	r.value = value
}

// get resolves through one replica, from its cache unless now.
func (r *rotation) get(cl *client.Client, now bool) (value, version string) {
	r.t.Helper()
	req := client.ResolveRequest{IntegrationID: "rotated", Configs: map[string]string{"p": rotatedRef}}
	if now {
		req.MaxAge = new(time.Duration)
	}
	res, err := cl.Resolve(r.t.Context(), req)
	if err != nil {
		r.t.Fatal(err)
	}
	return res.Values["p"].Reveal(), res.Values["p"].Version
}

// seeNew reads from the store through a replica until it gets the new value.
func (r *rotation) seeNew(cl *client.Client) {
	r.t.Helper()
	r.await("the store has the new value", func() bool { value, _ := r.get(cl, true); return value == r.value })
}

// TestReplicasAnswerTheNewVersion: after one replica has seen a new version of a secret, the
// other one answers it although its own copy is young; after a restart within the
// time-to-live, all tasks of a connector get the same version. Refresh confirms it, and names a
// replica that hangs and one that was killed, but not one that has stopped.
func TestReplicasAnswerTheNewVersion(t *testing.T) {
	c := newCluster(t, 2)
	c.create("rotated")
	c.create("watched")
	r := &rotation{c, "$trongPassw0rdExamp1e"}
	a, b := c.replicas[0], c.replicas[1]
	toA, toB := c.client(nil, a), c.client(nil, b)
	for _, cl := range []*client.Client{toA, toB} {
		c.await("the replica has the integration", func() bool { return ask(t.Context(), cl, "rotated") == nil })
	}
	stopWatching := r.watch(a)
	r.rotate("n3w-Passw0rd-1")
	r.seeNew(toA)
	at := time.Now()
	c.await("the other replica answers the new version", func() bool { value, _ := r.get(toB, false); return value == r.value })
	t.Logf("the other replica answers the new version after %v", time.Since(at).Round(time.Millisecond))

	// One replica restarts after the secret has changed. It reads the new version, and the
	// other one still has the old one.
	r.rotate("n3w-Passw0rd-2")
	c.stop(b, syscall.SIGTERM)
	c.start(b)
	c.await("the replica that has restarted answers the new version", func() bool { value, _ := r.get(toB, true); return value == r.value })
	c.await("the other replica answers it too", func() bool { value, _ := r.get(toA, false); return value == r.value })
	for range 10 {
		_, one := r.get(toA, false)
		_, two := r.get(toB, false)
		if one != two {
			t.Errorf("tasks of one connector get the versions %q and %q", one, two)
		}
	}

	r.checkDeleted(toA, toB)
	r.checkRefresh(a, b, toB, stopWatching)
}

// checkDeleted: after one replica has found that a secret is deleted, the other one does not
// answer it either.
func (r *rotation) checkDeleted(toA, toB *client.Client) {
	r.t.Helper()
	missing := func(cl *client.Client, now bool) bool {
		req := client.ResolveRequest{IntegrationID: "rotated", Configs: map[string]string{"p": rotatedRef}}
		if now {
			req.MaxAge = new(time.Duration)
		}
		_, err := cl.Resolve(r.t.Context(), req)
		var e *client.Error
		return errors.As(err, &e) && e.Reason == client.ReasonSecretNotFound
	}
	name := "sqlserver-db-secret"
	if err := edit(r.SecretsFile, name, "deleted-secret"); err != nil {
		r.t.Fatal(err)
	}
	r.await("the secret is deleted", func() bool { return missing(toA, true) })
	at := time.Now()
	r.await("the other replica knows it", func() bool { return missing(toB, false) })
	r.t.Logf("the other replica does not answer a deleted secret after %v", time.Since(at).Round(time.Millisecond))
	if err := edit(r.SecretsFile, "deleted-secret", name); err != nil {
		r.t.Fatal(err)
	}
	r.await("the secret is restored", func() bool { return !missing(toA, true) && !missing(toB, true) })
}

// watch watches a secret of an integration without other users, through a replica.
func (r *rotation) watch(a *member) (stop func()) {
	r.t.Helper()
	ctx, stop := context.WithCancel(r.t.Context())
	r.t.Cleanup(stop)
	r.await("the watched integration is known", func() bool {
		stream, err := secretbrokerv1.NewWatchServiceClient(dialBroker(r.t, a.addr, r.CAFile, r.Worker)).Watch(ctx, &secretbrokerv1.WatchRequest{
			Sets: []*secretbrokerv1.WatchSet{{IntegrationId: "watched", Configs: map[string]string{"p": rotatedRef}}}})
		if err != nil {
			r.t.Fatal(err)
		}
		m, err := stream.Recv()
		return err == nil && m.GetNotices()[0].GetState() == secretbrokerv1.Notice_STATE_CURRENT
	})
	return stop
}

// checkInUse deletes the watched integration through a replica that has no streams.
func (r *rotation) checkInUse(b *member) {
	r.t.Helper()
	r.await("who watches is known to all replicas", func() bool {
		used, err := r.store.Usage(r.t.Context(), "watched", time.Time{}, 0)
		return err == nil && len(used) == 1 && string(used[0].Principal) == r.Worker.ID
	})
	owner := r.client(func(cfg *client.Config) { cfg.CertFile, cfg.KeyFile = r.Owner.CertFile, r.Owner.KeyFile }, b)
	_, err := owner.DeleteIntegration(r.t.Context(), client.DeleteIntegrationRequest{IntegrationID: "watched"})
	var e *client.Error
	if !errors.As(err, &e) || e.Reason != client.ReasonIntegrationInUse || !strings.Contains(e.Message, r.Worker.ID) {
		r.t.Errorf("deleting an integration that is watched through another replica: %v", err)
	}
}

// checkRefresh refreshes through a while b runs, hangs, is dead and runs again.
func (r *rotation) checkRefresh(a, b *member, toB *client.Client, stopWatching func()) {
	r.t.Helper()
	r.checkInUse(b)
	stopWatching()
	watcher := secretbrokerv1.NewWatchServiceClient(dialBroker(r.t, a.addr, r.CAFile, r.Worker))
	refresh := func() *secretbrokerv1.RefreshResponse {
		r.t.Helper()
		ctx, cancel := context.WithTimeout(r.t.Context(), 30*time.Second)
		defer cancel()
		res, err := watcher.Refresh(ctx, &secretbrokerv1.RefreshRequest{IntegrationId: "rotated", Configs: map[string]string{"p": rotatedRef}})
		if err != nil || res.GetConfigs()["p"].GetError() != nil {
			r.t.Fatalf("%v, %v", res, err)
		}
		return res
	}
	r.get(toB, false)
	r.rotate("n3w-Passw0rd-3")
	r.await("the store has the new value", func() bool {
		before := time.Now()
		res := refresh()
		if res.GetCoverage() != secretbrokerv1.RefreshResponse_COVERAGE_ALL_REPLICAS {
			return false // the machine is slow
		}
		value, version := r.get(toB, false)
		if got := res.GetConfigs()["p"].GetVersion(); version != got {
			r.t.Fatalf("after a Refresh that saw %q the other replica answers %q", got, version)
		}
		r.t.Logf("refreshed and confirmed after %v", time.Since(before).Round(time.Millisecond))
		return value == r.value
	})

	unacknowledged := func(what string) {
		r.t.Helper()
		res := refresh()
		if res.GetCoverage() != secretbrokerv1.RefreshResponse_COVERAGE_SOME_REPLICAS || len(res.GetUnacknowledged()) != 1 || !strings.HasSuffix(res.GetUnacknowledged()[0].GetName(), b.addr) {
			r.t.Errorf("%s: %v", what, res)
		}
	}
	if err := b.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		r.t.Fatal(err)
	}
	unacknowledged("a replica hangs")
	if err := b.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		r.t.Fatal(err)
	}
	r.await("it has caught up", func() bool {
		return refresh().GetCoverage() == secretbrokerv1.RefreshResponse_COVERAGE_ALL_REPLICAS
	})
	r.stop(b, syscall.SIGTERM)
	if res := refresh(); res.GetCoverage() != secretbrokerv1.RefreshResponse_COVERAGE_ALL_REPLICAS {
		r.t.Errorf("a replica that has stopped left its lease: %v", res)
	}
	r.start(b)
	r.await("it takes part again", func() bool {
		return refresh().GetCoverage() == secretbrokerv1.RefreshResponse_COVERAGE_ALL_REPLICAS
	})
	r.stop(b, syscall.SIGKILL)
	unacknowledged("a replica was killed")
}
