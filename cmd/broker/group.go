package main

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
)

// group runs the parts of a broker together: all of them end when the context
// does or when one of them fails.
type group struct {
	ctx context.Context
	eg  *errgroup.Group
}

func newGroup(ctx context.Context) *group {
	eg, ctx := errgroup.WithContext(ctx)
	return &group{ctx: ctx, eg: eg}
}

// run starts a part. Its error is named after it.
func (g *group) run(name string, part func(context.Context) error) {
	g.eg.Go(func() error {
		if err := part(g.ctx); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	})
}

// wait returns the first part's error when all have ended.
func (g *group) wait() error {
	if err := g.eg.Wait(); err != nil {
		return &exitError{exitFailure, err}
	}
	return nil
}
