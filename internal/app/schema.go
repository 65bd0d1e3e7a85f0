package app

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/internal/config"
	"github.com/secretbroker/secretbroker/internal/provider/kinds"
)

// schemas are the JSON Schemas of the files, by their names on the command line.
var schemas = map[string]func() ([]byte, error){
	"configuration": config.Schema,
	"integration":   func() ([]byte, error) { return kinds.All().Schema() },
}

func newSchemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema configuration|integration",
		Short: "Print the JSON Schema of a file, for editors",
		Long: `Print the JSON Schema (draft 2020-12) of the broker's configuration file, or of an
integration's file. An editor with a YAML language server completes and checks the
settings of a file that begins with a line such as

  # yaml-language-server: $schema=integration.schema.json

"secretbroker validate" checks more than the schema.`,
		Example:   "  secretbroker schema integration > integration.schema.json",
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{"configuration", "integration"},
		RunE: func(cmd *cobra.Command, args []string) error {
			schema, err := schemas[args[0]]()
			if err != nil {
				return &exitError{Code: exitFailure, Err: err}
			}
			if _, err := cmd.OutOrStdout().Write(schema); err != nil {
				return &exitError{Code: exitFailure, Err: fmt.Errorf("print: %w", err)}
			}
			return nil
		},
	}
}
