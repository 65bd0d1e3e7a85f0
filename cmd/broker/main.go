// Command broker is secretbroker: the server, a development mode that needs
// nothing else, and the client.
//
// This package is the only place where the parts are wired together; see
// serve.go.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
)

// The exit codes, a promise to scripts. "broker resolve" uses them all.
const (
	exitOK = iota
	exitFailure
	exitUsage        // the command line or a configuration file is wrong
	exitDenied       // the caller may not: no grant, or no usable identity
	exitBadReference // a reference or the request is malformed
	exitNotFound     // no such secret, version or JSON key
	exitPrecondition // the secret or the integration is not in a usable state
	exitUnreachable  // no broker answers at the address, or not one we trust
	exitTryLater     // the broker or the store asks to wait
)

// version is set by the linker for releases.
var version = ""

func main() {
	stop := startProfile()
	code := run()
	stop()
	os.Exit(code)
}

// run is main with an exit code, so that tests can run the command in process.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal asks; from then on signals do what they do by default, so
	// that a second one ends the process at once.
	defer context.AfterFunc(ctx, stop)()
	cmd := newRootCommand()
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	var coded *exitError
	if !errors.As(err, &coded) {
		coded = &exitError{code: exitUsage, err: err} // cobra's own errors
	}
	if coded.err != nil {
		fmt.Fprintln(cmd.ErrOrStderr(), "Error:", printableLines(coded.err.Error()))
	}
	return coded.code
}

// exitError is an error with the exit code it means. A nil err has already been
// reported.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "broker",
		Short: "Resolve secret references for connector runtimes",
		Long: `secretbroker answers connector runtimes that need passwords, keys and tokens
out of their customers' secret stores. A runtime sends the references that stand
in a connector's configuration and shows its client certificate; the broker
checks that it may have them, reads the store with the integration's own cloud
identity, and answers.

Begin with:  broker dev`,
		Version:       buildVersion(),
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.AddCommand(newServeCommand(), newDevCommand(), newResolveCommand(), newCheckCommand(), newExplainCommand(), newIntegrationCommand(), newAuditCommand(), newKeyCommand(), newValidateCommand())
	return root
}

// buildVersion is the release's version, or what Go stamped into the binary.
func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// logFlags are the flags of commands that run a broker.
type logFlags struct {
	level  string
	format string
}

func (f *logFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.level, "log-level", "info", "least severe messages to log: debug, info, warn, error")
	cmd.Flags().StringVar(&f.format, "log-format", "text", "log format: text, json")
	completeWords(cmd, "log-level", "debug", "info", "warn", "error")
	completeWords(cmd, "log-format", "text", "json")
}

func (f *logFlags) logger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.level)); err != nil {
		return nil, &exitError{exitUsage, fmt.Errorf("--log-level: expected debug, info, warn or error, not %q", f.level)}
	}
	opts := &slog.HandlerOptions{Level: level}
	switch f.format {
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	default:
		return nil, &exitError{exitUsage, fmt.Errorf("--log-format: expected text or json, not %q", f.format)}
	}
}

// completeWords makes the shell complete a flag with a few words.
func completeWords(cmd *cobra.Command, flag string, words ...string) {
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag does not exist: a fault in this file
	}
}
