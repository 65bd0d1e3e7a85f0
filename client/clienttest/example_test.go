package clienttest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/client/clienttest"
)

// connectionString is a function of the program under test.
func connectionString(ctx context.Context, c *client.Client) (string, error) {
	res, err := c.Resolve(ctx, client.ResolveRequest{
		IntegrationID: "sqlserver-prod",
		Configs:       map[string]string{"password": "https://my-vault.vault.azure.net::db::password"},
	})
	switch {
	case errors.Is(err, client.ReasonAccessDenied):
		return "", errors.New("ask the operator of the broker for a grant")
	case err != nil:
		return "", err
	}
	return "sqlserver://app:" + res.Values["password"].Reveal() + "@db.example.org", nil
}

func TestConnectionString(t *testing.T) {
	b := clienttest.NewBroker(t)
	c := b.Client()
	if _, err := connectionString(t.Context(), c); err == nil {
		t.Error("no error without a grant")
	}
	b.Set("sqlserver-prod", "https://my-vault.vault.azure.net::db", `{"password":"hunter2"}`)
	got, err := connectionString(t.Context(), c)
	if err != nil || got != "sqlserver://app:hunter2@db.example.org" {
		t.Errorf("%q, %v", got, err)
	}
}

// A program that depends on an interface can be tested without a broker.
func Example_stub() {
	password := client.NewValue("hunter2")
	password.Version = "v1"
	res := &client.ResolveResponse{Values: map[string]client.Value{"password": password}}
	fmt.Println(res.Values["password"], res.Values["password"].Version)
	// Output: [REDACTED] v1
}
