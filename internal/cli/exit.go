// Package cli contains the commands that talk to a running broker (resolve, check,
// explain, integration), what they print, and the exit codes of all commands.
//
// It knows the public Go client and the formats of files that people keep:
// connector configurations and integration documents. It knows nothing of how a
// broker is built; cmd/broker adds the commands that run one or read its files.
//
// Output types with JSON names are a promise to scripts, and so are the exit codes.
package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/internal/integration"
)

// The exit codes are a promise to scripts. The resolve command uses all of them.
const (
	ExitOK           = iota
	ExitFailure      // any failure without a code of its own
	ExitUsage        // the command line or a configuration file is wrong
	ExitDenied       // the caller has no grant, or no usable identity
	ExitBadReference // a reference or the request is malformed
	ExitNotFound     // no such secret, version or JSON key
	ExitPrecondition // the secret or the integration is not in a usable state
	ExitUnreachable  // no broker answers at the address, or it is not trusted
	ExitTryLater     // the broker or the store asks the caller to wait
)

// ExitError is an error together with the exit code that it means. A nil Err says
// that the command has already printed what is wrong.
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

// CompleteWords makes the shell complete the values of a flag of cmd with words. It
// panics if cmd has no such flag.
func CompleteWords(cmd *cobra.Command, flag string, words ...string) {
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err)
	}
}
