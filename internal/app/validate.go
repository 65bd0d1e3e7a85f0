package app

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/internal/config"
	"github.com/secretbroker/secretbroker/internal/placement"
	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/registry/dirstore"
	"github.com/secretbroker/secretbroker/internal/registry/seal"
	"github.com/secretbroker/secretbroker/internal/trust"
)

func newValidateCommand() *cobra.Command {
	var configFile string
	cmd := &cobra.Command{
		Use:   "validate --config secretbroker.yaml",
		Short: "Check a configuration and its integrations without running them",
		Long: `Check secretbroker.yaml, the certificates and CRLs that it names, and every integration, and
report all errors with their lines. The command contacts no other system and starts
nothing.

Exit codes: 0 everything is valid; 2 there are errors.`,
		Example: "  secretbroker validate --config /etc/secretbroker/secretbroker.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load(configFile)
			if err != nil {
				return &exitError{Code: exitUsage, Err: err}
			}
			var faults []error
			if cfg.SPIFFE.Socket == "" {
				if err := trust.CheckFiles(tlsFiles(cfg.TLS, nil)); err != nil {
					faults = append(faults, err)
				}
			}
			if _, err := auditConfig(cfg.Audit, nil); err != nil {
				faults = append(faults, err)
			}
			if _, err := tracingConfig(cfg.Tracing, nil); err != nil {
				faults = append(faults, err)
			}
			if cfg.Registry.Seal.KeyFile != "" {
				if _, err := seal.Open(cfg.Registry.Seal.KeyFile); err != nil {
					faults = append(faults, err)
				}
			}
			integrations := "with the integrations in a database, which was not checked"
			if dir := cfg.Registry.Directory.Path; dir != "" {
				good, bad := dirstore.Validate(kinds.All(), dir)
				if len(bad) > 0 {
					faults = append(faults, bad)
				}
				places, err := placement.New(cfg.Placement.Rules())
				if err != nil {
					faults = append(faults, err)
				}
				for _, text := range places.Violations(good) {
					faults = append(faults, errors.New(text))
				}
				integrations = fmt.Sprintf("with %d integration(s)", len(good))
			}
			if len(faults) > 0 {
				return &exitError{Code: exitUsage, Err: errors.Join(faults...)}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: valid, %s\n", configFile, integrations)
			return nil
		},
	}
	cmd.Flags().StringVar(&configFile, "config", "", "the broker's configuration file (required)")
	_ = cmd.MarkFlagRequired("config") // the flag exists
	_ = cmd.MarkFlagFilename("config", "yaml", "yml")
	return cmd
}
