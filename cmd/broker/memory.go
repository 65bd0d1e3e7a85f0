package main

import (
	"log/slog"

	"github.com/dustin/go-humanize"

	"github.com/secretbroker/secretbroker/internal/config"
	"github.com/secretbroker/secretbroker/internal/memlimit"
)

// minMemory is how much memory the broker needs beside its cache: below it, a busy
// broker refuses calls for lack of memory.
const minMemory = 128 << 20

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

// sizeOf writes a number of bytes, such as 64 MiB.
func sizeOf(n int64) string { return humanize.IBytes(uint64(n)) } //nolint:gosec // not negative
