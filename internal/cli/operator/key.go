package operator

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/internal/cli"
	"github.com/secretbroker/secretbroker/internal/config"
	"github.com/secretbroker/secretbroker/internal/registry/seal"
)

func newKeyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Make and exchange the keys that seal stored credentials",
		Long: `Make and exchange the keys of registry.key_file, which seal the credentials that
are stored with integrations.

To exchange a key: "add" a new one, bring the file to every replica and have each
read it (SIGHUP); then "use" it, and do so again. The brokers then seal all
credentials with it. The old one still opens what is in backups; "drop" removes it.`,
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
	} {
		cmd.AddCommand(&cobra.Command{
			Use:   step.name + " FILE",
			Short: step.short,
			Args:  cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				if err := step.do(args[0]); err != nil {
					return &cli.ExitError{Code: cli.ExitFailure, Err: err}
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", args[0], step.done)
				return nil
			},
		})
	}
	cmd.AddCommand(newKeyDropCommand(), newKeyListCommand())
	return cmd
}

func newKeyListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list FILE",
		Short: "List the keys of a key file by their ids",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			keys, err := seal.List(args[0])
			if err != nil {
				return &cli.ExitError{Code: cli.ExitFailure, Err: err}
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
	}
}

func newKeyDropCommand() *cobra.Command {
	var (
		configFile string
		force      bool
	)
	cmd := &cobra.Command{
		Use:   "drop --config broker.yaml FILE",
		Short: "Remove the keys that do not seal",
		Long: `Remove the keys that do not seal. The command looks into the database of --config
and refuses while a credential there is sealed with one of them. It cannot see
backups: what is sealed in them with a key that is dropped cannot be opened any
more, so keep a copy of the old file as long as such a backup.

--force drops without looking. Credentials that are still sealed with a dropped
key are lost and have to be given again.`,
		Example: "  broker key drop --config /etc/secretbroker/broker.yaml /etc/secretbroker/registry.key",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case force && configFile != "":
				return &cli.ExitError{Code: cli.ExitUsage, Err: errors.New("--force does not look into the database: give either --config or --force")}
			case configFile != "":
				if err := checkUnused(cmd.Context(), configFile, args[0]); err != nil {
					return err
				}
			case !force:
				return &cli.ExitError{Code: cli.ExitUsage, Err: errors.New("give --config broker.yaml, so that the command can see whether the database still needs the keys, or --force to drop them without looking")}
			}
			if err := seal.Drop(args[0]); err != nil {
				return &cli.ExitError{Code: cli.ExitFailure, Err: err}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: the other keys are gone\n", args[0])
			return nil
		},
	}
	cmd.Flags().StringVar(&configFile, "config", "", "the broker's configuration file, whose registry is looked into")
	cmd.Flags().BoolVar(&force, "force", false, "drop the keys without looking into the database")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml") // the flag exists
	return cmd
}

// checkUnused refuses to drop keys of a key file while something in the database of
// the configuration is sealed with them.
func checkUnused(ctx context.Context, configFile, keyFile string) error {
	cfg, err := config.Load(configFile)
	if err != nil {
		return &cli.ExitError{Code: cli.ExitUsage, Err: err}
	}
	keys, err := seal.List(keyFile)
	if err != nil {
		return &cli.ExitError{Code: cli.ExitFailure, Err: err}
	}
	db, err := readRegistry(ctx, cfg, configFile)
	if err != nil {
		return err
	}
	defer db.Close() // nothing is written
	sealed, err := db.Sealed(ctx)
	if err != nil {
		return &cli.ExitError{Code: cli.ExitFailure, Err: err}
	}
	used := make(map[uint32][]string) // INTEGRATION/SETTING, by the key
	for _, c := range sealed {
		used[c.KeyID] = append(used[c.KeyID], c.Integration+"/"+c.Name)
	}
	for _, k := range keys {
		if names := used[k.ID]; !k.Seals && len(names) > 0 {
			return &cli.ExitError{Code: cli.ExitFailure, Err: fmt.Errorf("key %d still seals stored credentials: %s; bring the key file to every replica and send SIGHUP, so that they are sealed with the new key, and try again",
				k.ID, firstOf(names))}
		}
	}
	return nil
}
