package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/internal/registry/seal"
)

func newKeyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Make and exchange the keys that seal stored credentials",
		Long: `Make and exchange the keys of registry.key_file, which seal the credentials that
are stored with integrations.

To exchange a key: "add" a new one, bring the file to every replica and have each
read it (SIGHUP); then "use" it, and do so again. Credentials are now sealed anew
with it. The old one still opens what is in backups; "drop" removes it.`,
		Example: "  broker key create /etc/secretbroker/registry.key",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, step := range []struct {
		name, short, done string
		do                func(string) error
	}{
		{"create", "Make a key file, readable by its owner alone", "made; keep a copy in a safe place: without it stored credentials cannot be opened", seal.Create},
		{"add", "Add a key that opens, and does not seal yet", "a key is added; bring the file to every replica before using the key", seal.Add},
		{"use", "Seal with the newest key from now on", "the newest key seals now", seal.Use},
		{"drop", "Remove the keys that do not seal", "the other keys are gone", seal.Drop},
	} {
		cmd.AddCommand(&cobra.Command{
			Use:   step.name + " FILE",
			Short: step.short,
			Args:  cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				if err := step.do(args[0]); err != nil {
					return &exitError{Code: exitFailure, Err: err}
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", args[0], step.done)
				return nil
			},
		})
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "list FILE",
		Short: "List the keys of a key file by their ids",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			keys, err := seal.List(args[0])
			if err != nil {
				return &exitError{Code: exitFailure, Err: err}
			}
			for _, k := range keys {
				what := "opens"
				if k.Seals {
					what = "seals and opens"
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%d\t%s\n", k.ID, what)
			}
			return nil
		},
	})
	return cmd
}
