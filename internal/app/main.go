// Package app is the program secretbroker: the server, a development mode without
// dependencies, and the client.
//
// Both cmd/secretbroker and internal/app run it. Only this package wires the parts together;
// see serve.go.
package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/internal/cli"
	"github.com/secretbroker/secretbroker/internal/cli/exit"
	"github.com/secretbroker/secretbroker/internal/cli/operator"
	"github.com/secretbroker/secretbroker/internal/cli/terminal"
	"github.com/secretbroker/secretbroker/internal/provider/kinds"
)

// Short names for the exit codes and the error of the commands.
const (
	exitOK      = exit.OK
	exitFailure = exit.Failure
	exitUsage   = exit.Usage
)

type exitError = exit.Error

// Main runs the command that the process's arguments name, and ends the process with the
// command's exit code.
func Main() {
	stop := startProfile()
	code := run()
	stop()
	os.Exit(code)
}

// run is Main with an exit code, so that tests can run the command in process.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal starts the shutdown. It also restores the default behaviour, so
	// that a second signal ends the process at once.
	defer context.AfterFunc(ctx, stop)()
	return execute(ctx, newRootCommand())
}

// execute runs a command, prints its error and returns its exit code.
func execute(ctx context.Context, cmd *cobra.Command) int {
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	var coded *exitError
	if !errors.As(err, &coded) {
		// cobra's own errors. Its suggestions of commands are indented with tabs.
		coded = &exitError{Code: exitUsage, Err: errors.New(strings.ReplaceAll(strings.TrimSpace(err.Error()), "\t", "  "))}
	}
	if coded.Err != nil {
		fmt.Fprintln(cmd.ErrOrStderr(), "Error:", terminal.PrintableLines(coded.Err.Error()))
	}
	return coded.Code
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "secretbroker",
		Short: "Resolve secret references for connector runtimes",
		Long: `secretbroker provides connector runtimes with passwords, keys and tokens from their
customers' secret stores. A runtime presents its client certificate and sends the
references in a connector's configuration. The broker checks that the runtime may
read these secrets, reads them with the integration's own cloud identity, and
returns the values.

Start with:  secretbroker dev`,
		Version:       buildVersion(),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.AddCommand(cli.Commands(kinds.All())...)
	root.AddCommand(newServeCommand(), newDevCommand(), newValidateCommand(), newSchemaCommand(), newVersionCommand())
	root.AddCommand(operator.Commands(kinds.All())...)
	return root
}

// logFlags are the flags of commands that run a broker.
type logFlags struct {
	level  string
	format string
}

func (f *logFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.level, "log-level", "info", "least severe messages to log: debug, info, warn, error")
	cmd.Flags().StringVar(&f.format, "log-format", "text", "log format: text, json")
	terminal.CompleteWords(cmd, "log-level", "debug", "info", "warn", "error")
	terminal.CompleteWords(cmd, "log-format", "text", "json")
}

func (f *logFlags) logger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.level)); err != nil {
		return nil, &exitError{Code: exitUsage, Err: fmt.Errorf("--log-level: expected debug, info, warn or error, not %q", f.level)}
	}
	opts := &slog.HandlerOptions{Level: level}
	switch f.format {
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	default:
		return nil, &exitError{Code: exitUsage, Err: fmt.Errorf("--log-format: expected text or json, not %q", f.format)}
	}
}
