package app

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

// minMemory is the memory that the broker needs in addition to its cache. With less, a
// busy broker refuses calls.
const minMemory = 128 << 20

// harden protects the memory of the process from other processes. It must run before the
// broker reads a secret.
func harden(cfg *config.Config, log *slog.Logger) error {
	if err := hardening.Apply(hardening.Config{LockMemory: cfg.Memory.Lock, Logger: log}); err != nil {
		return &exitError{Code: exitFailure, Err: err}
	}
	return nil
}

// limitMemory sets the memory limit of the process and logs it.
func limitMemory(cfg *config.Config, log *slog.Logger) memlimit.Limit {
	limit := memlimit.Apply(int64(cfg.Memory.Limit))
	if limit.Bytes == 0 {
		log.Info("no memory limit found; set memory.limit or GOMEMLIMIT if the broker shares its machine")
		return limit
	}
	log.Info("memory limit", "source", limit.Source, "heap", sizeOf(limit.Bytes))
	if least := minMemory + int64(cfg.Cache.MaxBytes); limit.Bytes < least*memlimit.GoPercent/100 {
		log.Warn("the memory limit is too low for load; raise the limit, or lower cache.max_bytes",
			"source", limit.Source, "heap", sizeOf(limit.Bytes), "needed", sizeOf(least))
	}
	return limit
}

const (
	// baseMemory is the memory that the broker needs without calls, in addition to its
	// cache.
	baseMemory = 64 << 20
	// leastBudget is the minimum of each budget, and unlimitedBudget the budget without
	// a memory limit.
	leastBudget     = 24 << 20
	unlimitedBudget = 768 << 20
	// watchBudget is the budget of streams where there is enough memory for it in addition:
	// of 10,000 with 20 configs each.
	watchBudget = 512 << 20
)

// budgets limit the memory for calls and for reads of stores, and for streams of
// WatchService, which is nil if they use a part of that for calls.
type budgets struct {
	calls, reads, watches *budget.Budget
}

// newBudgets divides the memory that the limit leaves after the broker itself and its
// cache: a quarter for the garbage collector, half for calls, a quarter for reads.
func newBudgets(cfg *config.Config) budgets {
	total, room := int64(unlimitedBudget), int64(unlimitedBudget+watchBudget)
	if limit := debug.SetMemoryLimit(-1); limit < math.MaxInt64 {
		room = max(leastBudget, (limit-baseMemory-int64(cfg.Cache.MaxBytes))/4*3)
		total = min(total, room)
	}
	b := budgets{calls: budget.New(total / 3 * 2), reads: budget.New(total / 3)}
	if room >= total+watchBudget {
		b.watches = budget.New(watchBudget)
	}
	return b
}

// readBytes is the memory that one read of a store needs: a secret of 64 KiB as received,
// as decoded by the SDK, and as cached.
const readBytes = 256 << 10

// reserveRead reserves the memory for one read of a store; see provider.SetConfig.
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

// sizeOf formats a number of bytes, such as 64 MiB.
func sizeOf(n int64) string { return humanize.IBytes(uint64(n)) } //nolint:gosec // not negative
