package app

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/devmode"
)

// The tutorial of docs/rotation.md with the Go client: it has the new value of a secret in the
// embedded vault after the file was edited, and none after the grant has gone. testdata/rotation.txt
// is the same with the command line.
func TestRotationWithTheGoClient(t *testing.T) {
	b := newBroker(t, nil)
	changes := make(chan client.Change, 10)
	f, err := b.as(t, b.Worker).Follow(t.Context(), client.FollowRequest{
		Sets: map[string]client.FollowSet{"db": {
			IntegrationID: b.IntegrationID, Configs: map[string]string{"password": devmode.VaultURL + "::sqlserver-db-secret::password"},
		}},
		Changed: func(_ context.Context, all []client.Change) {
			for _, c := range all {
				changes <- c
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	next := func() client.Change {
		t.Helper()
		select {
		case c := <-changes:
			return c
		case <-time.After(30 * time.Second):
			t.Fatalf("no change; Err: %v", f.Err())
			return client.Change{}
		}
	}
	change := func(file, old, replacement string) {
		t.Helper()
		if err := edit(file, old, replacement); err != nil {
			t.Fatal(err)
		}
	}
	first, err := f.Get("db", "password")
	if err != nil || first.Reveal() != "$trongPassw0rdExamp1e" {
		t.Fatalf("the first value: %v", err)
	}
	change(b.SecretsFile, "$trongPassw0rdExamp1e", "n3wPassw0rdExamp1e")
	if c := next(); c.Value.Reveal() != "n3wPassw0rdExamp1e" || c.Value.Version == first.Version {
		t.Errorf("change %+v", c)
	}
	granted, other := "principals: [spiffe://example.org/connect/*]", "principals: [spiffe://example.org/elsewhere/*]"
	change(b.IntegrationFile, granted, other)
	if c := next(); c.Err == nil || c.Err.Reason != client.ReasonAccessDenied {
		t.Errorf("change %+v", c)
	}
	if _, err := f.Get("db", "password"); !errors.Is(err, client.ReasonAccessDenied) {
		t.Errorf("Get without a grant: %v", err)
	}
	change(b.IntegrationFile, other, granted)
	if c := next(); c.Err != nil || c.Value.Reveal() != "n3wPassw0rdExamp1e" {
		t.Errorf("change %+v", c)
	}
}
