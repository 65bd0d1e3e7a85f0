// Command go-client shows how a Go program gets its secrets from a broker: it resolves
// the references in its arguments and prints the result of each. It never prints a value.
//
//	secretbroker dev                       # in one terminal
//	go run ./examples/go-client \
//		-addr 127.0.0.1:8443 -dir .secretbroker -integration cspi-sqlserver \
//		'password=https://your-key-vault-name.vault.azure.net::sqlserver-db-secret::password'
//
// With -follow it keeps the values current until Ctrl-C, and prints each change.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"github.com/secretbroker/secretbroker/client"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run resolves the references in args and writes the results to w.
func run(ctx context.Context, args []string, w io.Writer) error {
	flags := flag.NewFlagSet("go-client", flag.ContinueOnError)
	addr := flags.String("addr", "127.0.0.1:8443", "the broker")
	dir := flags.String("dir", ".secretbroker", "where ca.pem, worker.pem and worker-key.pem are")
	integration := flags.String("integration", "cspi-sqlserver", "the provider integration")
	follow := flags.Bool("follow", false, "keep the values current and print each change")
	if err := flags.Parse(args); err != nil {
		return err
	}
	configs := make(map[string]string)
	for _, arg := range flags.Args() {
		name, reference, found := strings.Cut(arg, "=")
		if !found {
			return errors.New("give each reference as name=reference")
		}
		configs[name] = reference
	}

	// Use one client for the whole program. It reads its files again when they change.
	c, err := client.New(client.Config{
		Addrs:    []string{*addr},
		CAFile:   filepath.Join(*dir, "ca.pem"),
		CertFile: filepath.Join(*dir, "worker.pem"),
		KeyFile:  filepath.Join(*dir, "worker-key.pem"),
	})
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // the program ends

	if *follow {
		return followAll(ctx, c, client.FollowSet{IntegrationID: *integration, Configs: configs}, w)
	}
	res, err := c.Resolve(ctx, client.ResolveRequest{IntegrationID: *integration, Configs: configs, AllowPartial: true})
	var refused *client.Error
	if errors.As(err, &refused) && refused.Reason == client.ReasonBrokerUnreachable {
		return fmt.Errorf("is the broker running? %w", err)
	}
	if err != nil {
		return err
	}
	for name, value := range res.Values {
		// value.Reveal() returns the secret; value itself prints as [REDACTED].
		_, _ = fmt.Fprintf(w, "%s: %v, version %s, the broker's copy is good until %v\n", name, value, value.Version, value.CacheExpireTime)
	}
	for name, e := range res.Errors {
		_, _ = fmt.Fprintf(w, "%s: %s: %s (request %s)\n", name, e.Reason, e.Message, res.RequestID)
	}
	return nil
}

// followAll keeps the values of a set current until ctx ends. A program would use f.Get
// whenever it needs a value, and Changed only to act on a change, such as to reconnect.
func followAll(ctx context.Context, c *client.Client, set client.FollowSet, w io.Writer) error {
	f, err := c.Follow(ctx, client.FollowRequest{
		Sets: map[string]client.FollowSet{"all": set},
		Changed: func(_ context.Context, changes []client.Change) {
			for _, change := range changes {
				if change.Err != nil {
					_, _ = fmt.Fprintf(w, "%s: no value any more: %v\n", change.Config, change.Err)
				} else {
					_, _ = fmt.Fprintf(w, "%s: changed: %v, version %s\n", change.Config, change.Value, change.Value.Version)
				}
			}
		},
	})
	if err != nil {
		return err
	}
	defer f.Close()
	values, err := f.Values("all")
	if err != nil {
		return err
	}
	for name, value := range values {
		_, _ = fmt.Fprintf(w, "%s: %v, version %s\n", name, value, value.Version)
	}
	<-ctx.Done()
	return nil
}
