package main

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"
)

// group runs the parts of a broker together: all of them end when the context
// does or when one of them fails.
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

// run starts a part. Its error is named after it, unless it says itself how the
// command is to exit.
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

// wait returns the first part's error when all have ended.
func (g *group) wait() error {
	defer g.stop()
	return g.eg.Wait()
}
