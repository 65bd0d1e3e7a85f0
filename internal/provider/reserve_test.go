package provider_test

import (
	"context"
	"errors"
	"testing"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// TestReserve: each read reserves its memory while it runs and releases it
// afterwards. A read without memory is refused, and the store gets no request.
func TestReserve(t *testing.T) {
	var held, asked int
	var refuse, failed error
	var callers []string
	s := provider.NewSet(provider.SetConfig{
		Openers: map[secret.Kind]provider.Opener{secret.KindAzureKeyVault: func(context.Context, *integration.Integration) (provider.Provider, error) {
			return reader(func() (*secret.Secret, error) {
				asked++
				if held != 1 {
					t.Errorf("%d reservations are held during a read", held)
				}
				return nil, failed
			}), nil
		}},
		Reserve: func(_ context.Context, caller string) (func(), error) {
			callers = append(callers, caller)
			if refuse != nil {
				return nil, refuse
			}
			held++
			return func() { held-- }, nil
		},
	})
	defer s.Close()
	fetch := func() error {
		_, err := s.Fetch(provider.WithCallers(t.Context(), provider.NewCallers("caller")), in("1"), secret.Ref{Kind: secret.KindAzureKeyVault, Store: "https://s"})
		return err
	}
	for _, failed = range []error{nil, errors.New("away")} {
		if err := fetch(); !errors.Is(err, failed) || held != 0 {
			t.Errorf("%v: %v, %d are held", failed, err, held)
		}
	}
	if asked != 2 || callers[0] != "caller" {
		t.Errorf("%d reads for %q", asked, callers)
	}
	refuse = errors.New("no memory")
	for range 20 {
		if err := fetch(); secret.AsError(err).Reason != secret.ReasonOverloaded || asked != 2 {
			t.Fatalf("without memory: %v after %d reads", err, asked)
		}
	}
	refuse, failed = nil, nil
	if err := fetch(); err != nil {
		t.Errorf("with memory again: %v", err)
	}
}

// reader is a Provider.
type reader func() (*secret.Secret, error)

func (r reader) Fetch(context.Context, secret.Ref) (*secret.Secret, error) { return r() }
func (reader) Close() error                                                { return nil }
