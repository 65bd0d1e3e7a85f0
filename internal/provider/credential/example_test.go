package credential_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/secretbroker/secretbroker/internal/provider/credential"
	"github.com/secretbroker/secretbroker/internal/provider/egress"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/provider/task"
)

// ticket is a new kind of credential. CONTRIBUTING.md follows this file.
type ticket struct{ text string }

// exchange represents the request to the identity provider.
func exchange(_ context.Context, password string) (text string, life time.Duration, err error) {
	if password != "open sesame" {
		return "", 0, storeerror.Setup("the identity provider refuses the password; put the right one into kind.credential.password_file")
	}
	return "ticket-1", time.Hour, nil
}

// newTickets returns the tickets of an integration that logs in with a password file.
// The file is read for each login, so that a new password needs no restart.
func newTickets(passwordFile string, tasks *task.Group) *credential.Source[ticket] {
	return credential.New(credential.Config[ticket]{
		Timeout: 10 * time.Second,
		Tasks:   tasks,
		Closed:  storeerror.ErrClosed,
		Inputs:  credential.Files(passwordFile),
		Acquire: func(ctx context.Context, _ *credential.Held[ticket]) (*credential.Held[ticket], error) {
			password, err := egress.ReadFile("kind.credential.password_file", passwordFile)
			if err != nil {
				return nil, err
			}
			began := time.Now()
			text, life, err := exchange(ctx, string(password))
			if err != nil {
				return nil, err
			}
			return &credential.Held[ticket]{Value: ticket{text}, Began: began, Life: life}, nil
		},
	})
}

func Example() {
	dir, err := os.MkdirTemp("", "credential")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "password")
	tasks := task.NewGroup()
	tickets := newTickets(file, tasks)
	for _, password := range []string{"wrong", "open sesame"} {
		if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
			fmt.Println(err)
			return
		}
		held, err := tickets.Get(context.Background())
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println(held.Value.text, "for", held.Life)
	}
	tickets.Close()
	fmt.Println(tasks.Stop(time.Second))
	// Output:
	// STORE_AUTHENTICATION_FAILED: the identity provider refuses the password; put the right one into kind.credential.password_file
	// ticket-1 for 1h0m0s
	// <nil>
}
