package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/internal/cli/exit"
	"github.com/secretbroker/secretbroker/internal/connectorfile"
	"github.com/secretbroker/secretbroker/internal/secret"
)

func newConnectCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "connect",
		Short: "Convert connectors of Kafka Connect, and show which secrets they use",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newConvertCommand(), newConnectPlanCommand(), newRotateCommand())
	return cmd
}

// The targets of the convert command.
const (
	toPlaceholders = "placeholders"
	toManaged      = "secret-manager"
)

func newConvertCommand() *cobra.Command {
	var (
		file, to, alias string
		label           bool
	)
	cmd := &cobra.Command{
		Use:   "convert --file FILE",
		Short: "Convert a connector between secret.manager properties and placeholders",
		Long: `Convert the JSON of one connector. A connector with secret.manager properties, as
Confluent Cloud takes them, becomes one with placeholders
${secretbroker:INTEGRATION:REFERENCE}, which the broker's config provider resolves
in a worker of Kafka Connect. --to secret-manager converts it back. With --label the
placeholders also name the connector, ${secretbroker:INTEGRATION/CONNECTOR:REFERENCE},
so that "secretbroker usage" distinguishes it from other connectors of the worker.

The command writes the new configuration to standard output and keeps the order and
the text of all other properties. It reads no secret and needs no broker. It fails
if the other form cannot express something, for example a JSON key that contains
"}", at which Kafka ends a placeholder.

Exit codes: 0 success, also if there was nothing to convert; 2 the command line or
the file is invalid.`,
		Example: `  secretbroker connect convert --file connector.json > converted.json
  secretbroker connect convert --to secret-manager --file converted.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if to != toPlaceholders && to != toManaged {
				return &exit.Error{Code: exit.Usage, Err: fmt.Errorf("--to: expected %s or %s", toPlaceholders, toManaged)}
			}
			if label && to == toManaged {
				return &exit.Error{Code: exit.Usage, Err: errors.New("--label: only placeholders name the connector; leave it out")}
			}
			out, changed, err := convert(file, to, alias, label)
			if err != nil {
				return &exit.Error{Code: exit.Usage, Err: fmt.Errorf("%s: %w", file, err)}
			}
			if !changed {
				fmt.Fprintln(cmd.ErrOrStderr(), "nothing to convert")
			}
			_, err = cmd.OutOrStdout().Write(out)
			return err
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "JSON of one connector; - is standard input (required)")
	cmd.Flags().StringVar(&to, "to", toPlaceholders, "the new form: placeholders, secret-manager")
	cmd.Flags().StringVar(&alias, "alias", defaultAliases[0], "name of the broker's config provider in the worker's configuration")
	cmd.Flags().BoolVar(&label, "label", false, "let the placeholders name the connector, by its name in the file")
	_ = cmd.MarkFlagRequired("file")         // the flag exists
	_ = cmd.MarkFlagFilename("file", "json") // the flag exists
	_ = cmd.RegisterFlagCompletionFunc("to", cobra.FixedCompletions([]string{toPlaceholders, toManaged}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func convert(file, to, alias string, label bool) (out []byte, changed bool, err error) {
	data, err := readRegular(file)
	if err != nil {
		return nil, false, err
	}
	if to == toManaged {
		return connectorfile.ToManaged(data, []string{alias}, func(reference string) (string, error) {
			ref, err := secret.ParseRef(reference)
			return string(ref.Kind), faultOfReference(err)
		})
	}
	return connectorfile.ToPlaceholders(data, alias, label, func(reference string) error {
		_, err := secret.ParseRef(reference)
		return faultOfReference(err)
	})
}

// faultOfReference returns the text of a parser's error without the reason before it.
func faultOfReference(err error) error {
	if e, ok := errors.AsType[*secret.Error](err); ok {
		return errors.New(e.Message)
	}
	return err
}
