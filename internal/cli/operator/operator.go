// Package operator contains the commands for operators of a broker: they
// verify and query audit logs, compare a database with them, and create and replace
// the keys that seal stored credentials.
//
// These commands contact no broker. They read the files and the database that
// secretbroker.yaml names, so they also work while no broker runs, and run with the
// permissions of the user who starts them. Package cli has the commands that talk to a
// broker, the exit codes, and the functions that print.
package operator

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/internal/cli/exit"
	"github.com/secretbroker/secretbroker/internal/config"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/registry/sqlstore"
)

// openTimeout limits how long a command waits for its database to open.
const openTimeout = 30 * time.Second

// Commands returns the commands of this package. kinds are the kinds of stores that
// integrations may be of.
func Commands(kinds *integration.Kinds) []*cobra.Command {
	return []*cobra.Command{newAuditCommand(kinds), newSealCommand()}
}

// firstOf lists the first names and the number of the others.
func firstOf(names []string) string {
	const shown = 5
	list := strings.Join(names[:min(shown, len(names))], ", ")
	if n := len(names) - shown; n > 0 {
		list += fmt.Sprintf(" and %d more", n)
	}
	return list
}

// readRegistry opens the database of a configuration for reading.
func readRegistry(ctx context.Context, cfg *config.Config, configFile string) (*sqlstore.Reader, error) {
	if cfg.Registry.Directory.Path != "" {
		return nil, &exit.Error{Code: exit.Usage, Err: fmt.Errorf("%s: the integrations are in files; this command needs a configuration with a database (registry.sqlite or registry.postgres)", configFile)}
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	var db *sqlstore.Reader
	var err error
	if r := cfg.Registry; r.SQLite.File != "" {
		db, err = sqlstore.ReadSQLite(ctx, r.SQLite.File)
	} else {
		db, err = sqlstore.ReadPostgres(ctx, sqlstore.Postgres{URL: r.Postgres.URL, PasswordFile: r.Postgres.PasswordFile})
	}
	if err != nil {
		return nil, &exit.Error{Code: exit.Failure, Err: err}
	}
	return db, nil
}
