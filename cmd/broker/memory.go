package main

import (
	"context"
	"log/slog"
	"math"
	"runtime/debug"

	"github.com/dustin/go-humanize"

	"github.com/secretbroker/secretbroker/internal/budget"
	"github.com/secretbroker/secretbroker/internal/config"
	"github.com/secretbroker/secretbroker/internal/hardening"
	"github.com/secretbroker/secretbroker/internal/memlimit"
)

// minMemory is how much memory the broker needs beside its cache: below it, a busy
// broker refuses calls for lack of memory.
const minMemory = 128 << 20

// harden keeps the process's memory to the process. It comes before anything
// secret is read.
func harden(cfg *config.Config, log *slog.Logger) error {
	if err := hardening.Apply(hardening.Config{LockMemory: cfg.Memory.Lock, Logger: log}); err != nil {
		return &exitError{Code: exitFailure, Err: err}
	}
	return nil
}

// limitMemory makes the process keep to its memory limit, and tells the log of it.
func limitMemory(cfg *config.Config, log *slog.Logger) memlimit.Limit {
	limit := memlimit.Apply(int64(cfg.Memory.Limit))
	if limit.Bytes == 0 {
		log.Info("no memory limit found; set memory.limit or GOMEMLIMIT if the broker shares its machine")
		return limit
	}
	log.Info("memory limit", "source", limit.Source, "heap", sizeOf(limit.Bytes))
	if least := minMemory + int64(cfg.Cache.MaxBytes); limit.Bytes < least*memlimit.GoPercent/100 {
		log.Warn("the broker has less memory than it needs under load; raise the limit, or lower cache.max_bytes",
			"source", limit.Source, "heap", sizeOf(limit.Bytes), "needed", sizeOf(least))
	}
	return limit
}

const (
	// baseMemory is what the broker takes without any calls, beside its cache.
	baseMemory = 64 << 20
	// leastBudget and unlimitedBudget are what there is for calls and reads at least,
	// and where there is no memory limit.
	leastBudget     = 24 << 20
	unlimitedBudget = 768 << 20
)

// budgets are what there is for calls and for reads of stores under way.
type budgets struct {
	calls, reads *budget.Budget
}

// newBudgets divides what a memory limit leaves beside the broker itself and its
// cache: a quarter is for the garbage collector, half for calls, a quarter for reads.
func newBudgets(cfg *config.Config) budgets {
	total := int64(unlimitedBudget)
	if limit := debug.SetMemoryLimit(-1); limit < math.MaxInt64 {
		total = min(total, max(leastBudget, (limit-baseMemory-int64(cfg.Cache.MaxBytes))/4*3))
	}
	return budgets{calls: budget.New(total / 3 * 2), reads: budget.New(total / 3)}
}

// readBytes is what one read of a store takes: a secret of 64 KiB, as it comes in, as
// the SDK decodes it, and as it is kept.
const readBytes = 256 << 10

// reserveRead is provider.SetConfig's.
func (b budgets) reserveRead(ctx context.Context, caller string) (release func(), err error) {
	account := b.reads.Account(caller)
	if err := account.Wait(ctx, readBytes); err != nil {
		account.Close()
		return nil, err
	}
	return func() {
		account.Release(readBytes)
		account.Close()
	}, nil
}

// sizeOf writes a number of bytes, such as 64 MiB.
func sizeOf(n int64) string { return humanize.IBytes(uint64(n)) } //nolint:gosec // not negative
