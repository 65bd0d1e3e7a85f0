package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

// group runs the parts of a broker. All parts end when the context ends or when one of
// them fails.
type group struct {
	ctx  context.Context
	stop context.CancelFunc // ends all parts
	eg   *errgroup.Group
}

func newGroup(ctx context.Context) *group {
	ctx, stop := context.WithCancel(ctx)
	eg, ctx := errgroup.WithContext(ctx)
	return &group{ctx: ctx, stop: stop, eg: eg}
}

// run starts a part. Its error is prefixed with name, unless it is an exitError.
func (g *group) run(name string, part func(context.Context) error) {
	g.eg.Go(func() error {
		err := part(g.ctx)
		var coded *exitError
		if err == nil || errors.As(err, &coded) {
			return err
		}
		return &exitError{Code: exitFailure, Err: fmt.Errorf("%s: %w", name, err)}
	})
}

// wait waits until all parts have ended and returns the first error.
func (g *group) wait() error {
	defer g.stop()
	return g.eg.Wait()
}

// wait waits for d or until ctx ends.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// closing calls closeIt, and sets *err to its error if *err is nil.
func closing(err *error, closeIt func() error) {
	if e := closeIt(); e != nil && *err == nil {
		*err = e
	}
}
