package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/config"
	"github.com/secretbroker/secretbroker/internal/denial"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/manage/history"
	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/registry/dirstore"
	"github.com/secretbroker/secretbroker/internal/registry/seal"
	"github.com/secretbroker/secretbroker/internal/registry/sqlstore"
	"github.com/secretbroker/secretbroker/internal/replica"
	"github.com/secretbroker/secretbroker/internal/server"
	"github.com/secretbroker/secretbroker/internal/usage"
)

// databaseTime limits how long a starting broker waits for its database.
const databaseTime = 30 * time.Second

// integrationStore is the source of the integrations and of their usage.
type integrationStore struct {
	registry.Store
	usage registry.UsageStore
	// usageFile is usage if the integrations are files and their usage is in a database.
	usageFile *sqlstore.UsageFile
	dir       string     // "" for a database
	keys      *seal.Keys // nil if no credentials are stored
	close     func() error
	// restores reports that the database was restored to an earlier state, and seen stores
	// the last position that the broker saw. Both and position are nil for files.
	restores *history.Restores
	seen     *sqlstore.PositionFile
	position func() registry.Position
	// denials is nil for files.
	denials registry.DenialStore
	// replicas is nil unless several brokers may use the database.
	replicas replica.Table
	// sealedKey returns a key that is sealed in the database; nil for files.
	sealedKey func(ctx context.Context, name string, size int) ([]byte, error)
}

// openIntegrations opens the directory or the database of the configuration.
func openIntegrations(ctx context.Context, cfg *config.Config, log *slog.Logger, onDenials func(*denial.List), onChange func(removed, changed []*integration.Integration)) (*integrationStore, error) {
	if dir := cfg.Registry.Directory.Path; dir != "" {
		files, err := dirstore.Open(dirstore.Config{Kinds: kinds.All(), Dir: dir, Logger: log, OnChange: onChange})
		if err != nil {
			return nil, &exitError{Code: exitUsage, Err: err}
		}
		s := &integrationStore{Store: files, dir: dir, close: func() error { return nil }}
		s.openUsage(ctx, cfg, log)
		return s, nil
	}
	r := cfg.Registry
	c := sqlstore.Config{
		Kinds:           kinds.All(),
		Files:           r.AllowedFiles,
		MaxIntegrations: r.MaxIntegrations,
		MaxOutage:       time.Duration(r.MaxOutage),
		UsageRetention:  time.Duration(cfg.Usage.Retention),
		Logger:          log,
		OnChange:        onChange,
		OnDenials:       onDenials,
	}
	s := &integrationStore{restores: history.NewRestores(kinds.All(), log), seen: positionFile(cfg, log)}
	c.Seen, c.OnRestored = s.seen.Read(), s.restores.Note
	if r.Seal.KeyFile != "" {
		keys, err := seal.Open(r.Seal.KeyFile)
		if err != nil {
			return nil, &exitError{Code: exitUsage, Err: err}
		}
		s.keys, c.Sealer = keys, keys
	}
	ctx, cancel := context.WithTimeout(ctx, databaseTime)
	defer cancel()
	var db *sqlstore.Store
	var err error
	if r.SQLite.File != "" {
		db, err = sqlstore.OpenSQLite(ctx, r.SQLite.File, c)
	} else {
		db, err = sqlstore.OpenPostgres(ctx, sqlstore.Postgres{URL: r.Postgres.URL, PasswordFile: r.Postgres.PasswordFile}, c)
	}
	if err != nil {
		return nil, &exitError{Code: exitFailure, Err: err}
	}
	s.Store, s.usage, s.denials, s.close, s.position = db, db, db, db.Close, db.Position
	s.replicas, s.sealedKey = db.Replicas(), db.SealedKey
	return s, nil
}

// usageTime limits how long a starting broker waits for the database of usage.
const usageTime = 10 * time.Second

// openUsage opens the store of the usage of integrations in files: a database next to the
// audit log if that is a regular file, and memory otherwise or if the database cannot be opened.
// Usage is not worth a broker that does not start.
func (s *integrationStore) openUsage(ctx context.Context, cfg *config.Config, log *slog.Logger) {
	keeps := func(id string) bool { // an invalid file keeps its usage
		_, err := s.Record(context.Background(), id)
		return !errors.Is(err, registry.ErrNotFound)
	}
	if path := besideAudit(cfg, ".usage"); path != "" {
		ctx, cancel := context.WithTimeout(ctx, usageTime)
		defer cancel()
		file, err := sqlstore.OpenUsageFile(ctx, path, sqlstore.UsageFileConfig{Keeps: keeps, Retention: time.Duration(cfg.Usage.Retention), Logger: log})
		if err == nil {
			s.usage, s.usageFile, s.close = file, file, file.Close
			return
		}
		log.Warn("usage is recorded in memory, until the broker stops", "error", err)
	}
	memory := usage.NewMemory(0)
	memory.Keep(keeps)
	s.usage = memory
}

// runUsage maintains the database of usage until ctx ends, if there is one.
func (s *integrationStore) runUsage(ctx context.Context) error {
	if s.usageFile == nil {
		<-ctx.Done()
		return nil
	}
	return s.usageFile.Run(ctx)
}

// besideAudit returns the path of a file next to the audit log, or "" if that is not a regular
// file.
func besideAudit(cfg *config.Config, suffix string) string {
	if info, err := os.Stat(cfg.Audit.File); err == nil && //nolint:gosec // G703: the operator names it
		info.Mode().IsRegular() && cfg.Audit.File != audit.Stdout {
		return cfg.Audit.File + suffix
	}
	return ""
}

// positionFile returns the position file, which is next to the audit log. It returns nil if
// that is not a regular file.
func positionFile(cfg *config.Config, log *slog.Logger) *sqlstore.PositionFile {
	return sqlstore.NewPositionFile(besideAudit(cfg, ".registry"), cfg.Registry.SQLite.File+cfg.Registry.Postgres.URL, log)
}

// watchRestores records restores of the database and the last position that the broker
// saw, until ctx ends.
func (s *integrationStore) watchRestores(ctx context.Context, log *audit.Log) error {
	if s.restores == nil {
		return nil
	}
	var noting sync.WaitGroup
	defer noting.Wait()
	noting.Go(func() { s.seen.Run(ctx, s.position) })
	return s.restores.Run(ctx, log)
}

// reload reads the keys and then the integrations again. If another key seals now, their
// credentials are sealed again.
func (s *integrationStore) reload() error {
	if s.keys != nil {
		if err := s.keys.Reload(); err != nil {
			return err
		}
	}
	if s.restores != nil {
		s.restores.Acknowledge() // before Reload, which may find another restore
	}
	s.Reload() // logs its own errors
	return nil
}

// refuses reports whether calls are refused because the last state read from the database
// is too old.
func (s *integrationStore) refuses() bool { return s.Status().Refuses }

// problems returns the problems with the integrations, for /readyz.
func (s *integrationStore) problems() []server.Problem {
	var ps []server.Problem
	st := s.Status()
	if text := st.Problem; text != "" {
		reason := "REGISTRY_UNREADABLE"
		switch {
		case st.Refuses:
			reason = "REGISTRY_UNAVAILABLE"
			text += "; calls are refused, because what was last seen is older than registry.max_outage (15 minutes for files)"
		case !st.RefusesAt.IsZero():
			text += fmt.Sprintf("; calls will be refused from %s", st.RefusesAt.UTC().Format(time.RFC3339))
		}
		ps = append(ps, server.Problem{Component: "registry", Reason: reason, Message: text})
	}
	if st.WriteProblem != "" {
		ps = append(ps, server.Problem{Component: "registry", Reason: "REGISTRY_NOT_WRITABLE", Message: "the integrations' database does not accept writes: " + st.WriteProblem})
	}
	if s.restores != nil {
		if text := s.restores.Problem(); text != "" {
			ps = append(ps, server.Problem{Component: "registry", Reason: "REGISTRY_RESTORED", Message: text})
		}
	}
	for _, f := range s.Faults() {
		reason := "INVALID_INTEGRATION"
		if s.dir != "" && f.File == s.dir { // unreadable, or several files have vanished
			reason = "INTEGRATIONS_INCOMPLETE"
		}
		ps = append(ps, server.Problem{Component: "integrations", Reason: reason, Message: f.Faults.Error()})
	}
	return ps
}
