// Package cli contains the commands that talk to a running broker (resolve, check,
// explain, integration), what they print, and the exit codes of all commands.
//
// It uses the public Go client and the formats of users' files: connector
// configurations and integration documents. It does not depend on the parts of a
// broker; internal/app adds the commands that run one or read its files.
//
// The exit codes and the output types with JSON names are a stable interface for scripts.
package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/internal/integration"
)

// The exit codes are a stable interface for scripts. The resolve command uses all of them.
const (
	ExitOK           = iota
	ExitFailure      // any other failure
	ExitUsage        // the command line or a configuration file is invalid
	ExitDenied       // the caller has no grant, or no valid identity
	ExitBadReference // a reference or the request is malformed
	ExitNotFound     // no such secret, version or JSON key
	ExitPrecondition // the secret or the integration is not in a usable state
	ExitUnreachable  // no trusted broker answers at the address
	ExitTryLater     // the broker or the store asks the caller to wait
)

// ExitError is an error with its exit code. A nil Err means that the command has already
// printed the error.
type ExitError struct {
	Code int
	Err  error
}

func (e *ExitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit code %d", e.Code)
	}
	return e.Err.Error()
}

func (e *ExitError) Unwrap() error { return e.Err }

// Commands returns the commands that talk to a running broker. kinds are the kinds of
// stores that integrations may be of.
func Commands(kinds *integration.Kinds) []*cobra.Command {
	return []*cobra.Command{newResolveCommand(), newCheckCommand(), newExplainCommand(kinds), newIntegrationCommand(kinds)}
}

// CompleteWords registers words as the shell completion of a flag of cmd. It panics if cmd
// has no such flag.
func CompleteWords(cmd *cobra.Command, flag string, words ...string) {
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err)
	}
}
