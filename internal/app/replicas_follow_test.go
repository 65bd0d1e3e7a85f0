//go:build unix

package app

import (
	"syscall"
	"testing"

	"github.com/secretbroker/secretbroker/client"
)

// TestFollowOverReplicas: the Go client refreshes a secret through one of two replicas with a
// database, and a Follower has the new version, also after the replica of its stream has ended.
func TestFollowOverReplicas(t *testing.T) {
	c := newCluster(t, 2)
	c.create("rotated")
	r := &rotation{c, "$trongPassw0rdExamp1e"}
	a, b := c.replicas[0], c.replicas[1]
	toA, toB := c.client(nil, a), c.client(nil, b)
	for _, cl := range []*client.Client{toA, toB} {
		c.await("the replica has the integration", func() bool { return ask(t.Context(), cl, "rotated") == nil })
	}
	follow := func(cl *client.Client) *client.Follower {
		t.Helper()
		f, err := cl.Follow(t.Context(), client.FollowRequest{Sets: map[string]client.FollowSet{"s": {IntegrationID: "rotated", Configs: map[string]string{"p": rotatedRef}}}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(f.Close)
		return f
	}
	onA, onBoth := follow(toA), follow(c.client(nil, a, b))
	has := func(f *client.Follower) bool {
		v, err := f.Get("s", "p")
		return err == nil && v.Reveal() == r.value
	}
	rotate := func(value string) {
		t.Helper()
		_, before := r.get(toB, false)
		r.rotate(value)
		r.await("a Refresh sees the new version", func() bool {
			res, err := toB.Refresh(t.Context(), client.RefreshRequest{IntegrationID: "rotated", Configs: map[string]string{"p": rotatedRef}})
			return err == nil && res.Coverage == client.CoverageAllReplicas && res.Configs["p"].Version != before
		})
	}
	rotate("n3w-Passw0rd-1")
	c.await("both Followers have the new value", func() bool { return has(onA) && has(onBoth) })

	c.stop(a, syscall.SIGTERM)
	rotate("n3w-Passw0rd-2")
	c.await("a Follower has the new value from the other replica", func() bool { return has(onBoth) })
	c.start(a)
	c.await("the other Follower has it when its replica is back", func() bool { return has(onA) })
}
