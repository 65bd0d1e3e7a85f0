package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/secretbroker/secretbroker/client"
	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

func Example() {
	// In a program these are the broker's address and the paths of the files.
	cfg, stop := runningBroker()
	defer stop()

	c, err := client.New(client.Config{
		Addrs:    cfg.Addrs,
		CAFile:   cfg.CAFile,
		CertFile: cfg.CertFile,
		KeyFile:  cfg.KeyFile,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = c.Close() }()

	res, err := c.Resolve(context.Background(), client.ResolveRequest{
		IntegrationID: "sqlserver-prod",
		Configs: map[string]string{
			"database.password": "https://my-vault.vault.azure.net::sqlserver-db-secret::password",
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	password := res.Values["database.password"]
	fmt.Println("printed: ", password)
	fmt.Println("version: ", password.Version)
	fmt.Println("revealed:", len(password.Reveal()), "bytes")
	// Output:
	// printed:  [REDACTED]
	// version:  5d1b6e1a2f0c4c0f9a6d3e2b1c0d9e8f
	// revealed: 16 bytes
}

func ExampleError() {
	cfg, stop := runningBroker()
	defer stop()
	c, err := client.New(cfg)
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = c.Close() }()

	_, err = c.Resolve(context.Background(), client.ResolveRequest{IntegrationID: "somebody-elses"})
	if errors.Is(err, client.ReasonAccessDenied) {
		fmt.Println("ask the broker's operator for a grant")
	}
	var e *client.Error
	if errors.As(err, &e) {
		fmt.Println(e.Code, e.Reason)
	}
	// Output:
	// ask the broker's operator for a grant
	// PermissionDenied ACCESS_DENIED
}

func ExampleResolveRequest_maxAge() {
	cfg, stop := runningBroker()
	defer stop()
	c, err := client.New(cfg)
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = c.Close() }()

	// After a rotation: not the cached value of the broker.
	now := time.Duration(0)
	res, err := c.Resolve(context.Background(), client.ResolveRequest{
		IntegrationID: "sqlserver-prod",
		Configs:       map[string]string{"database.password": "https://my-vault.vault.azure.net::sqlserver-db-secret"},
		MaxAge:        &now,
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(res.Values["database.password"].Stale)
	// Output: false
}

// runningBroker starts a broker and writes the files of a runtime.
func runningBroker() (cfg client.Config, stop func()) {
	authority := newCA("example CA")
	denied := failWith(codes.PermissionDenied, "no grant for this caller, or no such integration", reason("ACCESS_DENIED"))
	b := startBroker(authority, func(ctx context.Context, in *secretbrokerv1.ResolveRequest) (*secretbrokerv1.ResolveResponse, error) {
		if in.GetIntegrationId() != "sqlserver-prod" {
			return denied(ctx, in)
		}
		out, err := echo(ctx, in)
		for _, c := range out.GetConfigs() {
			c.Value, c.Version = "correct horse ba", "5d1b6e1a2f0c4c0f9a6d3e2b1c0d9e8f"
		}
		return out, err
	})
	dir := must(os.MkdirTemp("", "secretbroker"))
	return writeConfig(dir, b.addr, authority, "worker-1.test"), func() {
		b.stop()
		_ = os.RemoveAll(dir)
	}
}
