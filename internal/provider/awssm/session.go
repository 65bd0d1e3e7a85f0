package awssm

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/credential"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/provider/task"
)

const (
	// sessionMargin is how long before their end keys are no longer used.
	sessionMargin = time.Minute
	// refreshAhead is how long before their end keys are replaced.
	refreshAhead = 5 * time.Minute
)

// keySource acquires keys. It contacts AWS or reads files, and keeps nothing. Its
// errors are *secret.Error.
type keySource func(ctx context.Context) (aws.Credentials, error)

// keys are what requests are signed with.
type keys = credential.Held[aws.Credentials]

// newSessions returns a Source that holds the keys of id for signing requests, which it gets
// from source, and replaces them. Its errors are *secret.Error, the
// caller's context error, or storeerror.ErrClosed.
func newSessions(cfg provider.Config, log *slog.Logger, id identity, source keySource, tasks *task.Group) *credential.Source[aws.Credentials] {
	c := credential.Config[aws.Credentials]{
		Timeout: cfg.LoginTimeout, Now: cfg.Now, Tasks: tasks, Closed: storeerror.ErrClosed,
		Margin: func(time.Duration) time.Duration { return sessionMargin },
		Ahead:  func(life time.Duration) time.Duration { return min(refreshAhead, life/2) },
		Failed: func(err error) { log.Warn("cannot obtain AWS keys", "error", err) },
		Acquire: func(ctx context.Context, _ *keys) (*keys, error) {
			k, err := acquire(ctx, source, cfg.Now)
			if err != nil {
				return nil, explainSession(ctx, cfg.LoginTimeout, id, err)
			}
			return k, nil
		},
	}
	if files := credentialFiles(id.credential); len(files) > 0 {
		c.Inputs = credential.Files(files...)
	}
	return credential.New(c)
}

func acquire(ctx context.Context, source keySource, now func() time.Time) (*keys, error) {
	var k aws.Credentials
	err := task.Contain(func() (err error) {
		k, err = source(ctx)
		return err
	})
	at := now()
	switch {
	case err != nil:
		return nil, err
	case !k.HasKeys():
		return nil, errors.New("awssm: the credential returned no keys")
	case !k.CanExpire:
		return &keys{Value: k, Began: at}, nil
	case k.Expires.Sub(at) <= sessionMargin:
		return nil, clockError("the keys issued to the integration's credential expire within a minute")
	default:
		return &keys{Value: k, Began: at, Life: k.Expires.Sub(at)}, nil
	}
}
