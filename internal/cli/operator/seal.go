package operator

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/internal/cli/exit"
	"github.com/secretbroker/secretbroker/internal/config"
	"github.com/secretbroker/secretbroker/internal/registry/seal"
)

func newSealCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:        "seal",
		SuggestFor: []string{"key"},
		Short:      "Create and rotate the keys that seal stored credentials",
		Long: `Create and rotate the keys of registry.seal.key_file, which seal the credentials that are
stored with integrations.

To rotate the key: add a new key (add-key), copy the file to every replica, and
reload each replica (SIGHUP); then seal with the new key (use-key), and copy and
reload again. The brokers then seal all credentials with the new key. The old key is
still needed to restore older backups; drop-key removes it.`,
		Example: "  secretbroker seal create-key /etc/secretbroker/registry.key",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, step := range []struct {
		name, short, done string
		do                func(string) error
	}{
		{"create-key", "Create a key file, readable by its owner only", "created; keep a copy in a safe place: without it stored credentials cannot be decrypted", seal.Create},
		{"add-key", "Add a key that can unseal but does not seal yet", "key added; copy the file to every replica before you use the key", seal.Add},
		{"use-key", "Seal with the newest key from now on", "the newest key now seals", seal.Use},
	} {
		cmd.AddCommand(&cobra.Command{
			Use:   step.name + " FILE",
			Short: step.short,
			Args:  cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				if err := step.do(args[0]); err != nil {
					return &exit.Error{Code: exit.Failure, Err: err}
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", args[0], step.done)
				return nil
			},
		})
	}
	cmd.AddCommand(newDropKeyCommand(), newListKeysCommand())
	return cmd
}

func newListKeysCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list-keys FILE",
		Short: "List the keys of a key file by their ids",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			keys, err := seal.List(args[0])
			if err != nil {
				return &exit.Error{Code: exit.Failure, Err: err}
			}
			for _, k := range keys {
				what := "unseals"
				if k.Seals {
					what = "seals and unseals"
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%d\t%s\n", k.ID, what)
			}
			return nil
		},
	}
}

func newDropKeyCommand() *cobra.Command {
	var (
		configFile string
		force      bool
	)
	cmd := &cobra.Command{
		Use:   "drop-key --config secretbroker.yaml FILE",
		Short: "Remove the keys that do not seal",
		Long: `Remove the keys that do not seal. The command reads the database of --config and
fails if a credential there is still sealed with one of them. It cannot check
backups: credentials in a backup that are sealed with a dropped key are lost. Keep
a copy of the old key file as long as such backups.

--force removes the keys without reading the database. Credentials that are still
sealed with a dropped key are lost and must be set again.`,
		Example: "  secretbroker seal drop-key --config /etc/secretbroker/secretbroker.yaml /etc/secretbroker/registry.key",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case force && configFile != "":
				return &exit.Error{Code: exit.Usage, Err: errors.New("--force does not read the database: give either --config or --force")}
			case configFile != "":
				if err := checkUnused(cmd.Context(), configFile, args[0]); err != nil {
					return err
				}
			case !force:
				return &exit.Error{Code: exit.Usage, Err: errors.New("give --config secretbroker.yaml, so that the command can check whether the database still needs the keys, or --force to drop them without this check")}
			}
			if err := seal.Drop(args[0]); err != nil {
				return &exit.Error{Code: exit.Failure, Err: err}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: the other keys were removed\n", args[0])
			return nil
		},
	}
	cmd.Flags().StringVar(&configFile, "config", "", "the broker's configuration file, whose registry is checked")
	cmd.Flags().BoolVar(&force, "force", false, "drop the keys without checking the database")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml") // the flag exists
	return cmd
}

// checkUnused returns an error if a credential in the database of the configuration is
// sealed with a key of the file that would be dropped.
func checkUnused(ctx context.Context, configFile, keyFile string) error {
	cfg, err := config.Load(configFile)
	if err != nil {
		return &exit.Error{Code: exit.Usage, Err: err}
	}
	keys, err := seal.List(keyFile)
	if err != nil {
		return &exit.Error{Code: exit.Failure, Err: err}
	}
	db, err := readRegistry(ctx, cfg, configFile)
	if err != nil {
		return err
	}
	defer db.Close() // nothing is written
	sealed, err := db.Sealed(ctx)
	if err != nil {
		return &exit.Error{Code: exit.Failure, Err: err}
	}
	used := make(map[uint32][]string) // INTEGRATION/SETTING or NAME, by the key
	for _, c := range sealed {
		name := c.Name
		if c.Integration != "" {
			name = c.Integration + "/" + name
		}
		used[c.KeyID] = append(used[c.KeyID], name)
	}
	for _, k := range keys {
		if names := used[k.ID]; !k.Seals && len(names) > 0 {
			return &exit.Error{Code: exit.Failure, Err: fmt.Errorf("stored credentials or keys are still sealed with key %d: %s; copy the key file to every replica and send SIGHUP, so that the broker seals them with the new key, and try again",
				k.ID, firstOf(names))}
		}
	}
	return nil
}
