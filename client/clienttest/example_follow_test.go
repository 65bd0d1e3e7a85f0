package clienttest_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/client/clienttest"
	"github.com/secretbroker/secretbroker/internal/asynctest"
)

// pool is a part of the program under test.
type pool struct{ password atomic.Value }

// open makes the pool use the current password.
func (p *pool) open(ctx context.Context, c *client.Client) (*client.Follower, error) {
	configs := map[string]string{"password": "https://my-vault.vault.azure.net::db::password"}
	f, err := c.Follow(ctx, client.FollowRequest{
		Sets: map[string]client.FollowSet{"db": {IntegrationID: "sqlserver-prod", Configs: configs}},
		Changed: func(_ context.Context, changes []client.Change) {
			for _, change := range changes {
				if change.Err == nil {
					p.password.Store(change.Value.Reveal())
				}
			}
		},
	})
	if err != nil {
		return nil, err
	}
	first, err := f.Get("db", "password")
	if err != nil {
		f.Close()
		return nil, err
	}
	p.password.CompareAndSwap(nil, first.Reveal())
	return f, nil
}

func TestRotation(t *testing.T) {
	b := clienttest.NewBroker(t)
	b.Set("sqlserver-prod", "https://my-vault.vault.azure.net::db", `{"password":"hunter2"}`)
	var p pool
	f, err := p.open(t.Context(), b.Client())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b.Set("sqlserver-prod", "https://my-vault.vault.azure.net::db", `{"password":"hunter3"}`)
	asynctest.Eventually(t, "the pool has the new password", func() bool { return p.password.Load() == "hunter3" })
}
