package main

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// newEngine returns a secrets engine like those for databases: reading creds/NAME creates
// a credential with a renewable lease. It uses no database. The server implements leases,
// renewals and their limits.
func newEngine(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	const kind = "credential"
	lease := &framework.Secret{
		Type:            kind,
		Fields:          map[string]*framework.FieldSchema{"username": {Type: framework.TypeString}, "password": {Type: framework.TypeString}},
		DefaultDuration: time.Minute,
		Revoke: func(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
			return nil, nil
		},
	}
	b := &framework.Backend{BackendType: logical.TypeLogical, Secrets: []*framework.Secret{lease}}
	lease.Renew = func(_ context.Context, r *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
		resp := &logical.Response{Secret: r.Secret}
		resp.Secret.TTL = b.System().DefaultLeaseTTL()
		resp.Secret.MaxTTL = b.System().MaxLeaseTTL()
		return resp, nil
	}
	b.Paths = []*framework.Path{{
		Pattern: "creds/" + framework.GenericNameRegex("name"),
		Fields:  map[string]*framework.FieldSchema{"name": {Type: framework.TypeString}},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback: func(_ context.Context, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
					resp := b.Secret(kind).Response(map[string]any{
						"username": "v-" + d.Get("name").(string) + "-" + rand.Text(),
						"password": rand.Text(),
					}, nil)
					resp.Secret.TTL = b.System().DefaultLeaseTTL()
					resp.Secret.MaxTTL = b.System().MaxLeaseTTL()
					return resp, nil
				},
			},
		},
	}}
	if err := b.Setup(ctx, conf); err != nil {
		return nil, err
	}
	return b, nil
}
