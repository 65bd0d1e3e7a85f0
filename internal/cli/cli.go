// Package cli contains the commands that talk to a running broker (resolve, check,
// watch, refresh, explain, integration, usage, deny, whoami) or change the files of connectors (connect) and what they print.
//
// It uses the public Go client and the formats of users' files: connector
// configurations and integration documents. It does not depend on the parts of a
// broker; internal/app adds the commands that run one or read its files.
//
// The output types with JSON names and the exit codes of package exit are a stable interface for
// scripts.
package cli

import (
	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/internal/integration"
)

// Commands returns the commands that talk to a running broker. kinds are the kinds of
// stores that integrations may be of.
func Commands(kinds *integration.Kinds) []*cobra.Command {
	return []*cobra.Command{newResolveCommand(), newCheckCommand(), newWatchCommand(), newRefreshCommand(), newExplainCommand(kinds), newIntegrationCommand(kinds), newUsageCommand(kinds),
		newConnectCommand(), newDenyCommand(), newWhoAmICommand()}
}
