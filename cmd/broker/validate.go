package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/internal/config"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/trust"
)

func newValidateCommand() *cobra.Command {
	var configFile string
	cmd := &cobra.Command{
		Use:   "validate --config broker.yaml",
		Short: "Check a configuration and its integrations without running them",
		Long: `Check broker.yaml, the certificates and CRLs it names and every integration, and
report all faults at once with their lines. Nothing is contacted and nothing is
started.

Exit codes: 0 everything is in order; 2 there are faults.`,
		Example: "  broker validate --config /etc/secretbroker/broker.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load(configFile)
			if err != nil {
				return &exitError{exitUsage, err}
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
			integrations, bad := registry.Validate(cfg.Integrations)
			if len(bad) > 0 {
				faults = append(faults, bad)
			}
			if len(faults) > 0 {
				return &exitError{exitUsage, errors.Join(faults...)}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: in order, with %d integration(s)\n", configFile, len(integrations))
			return nil
		},
	}
	cmd.Flags().StringVar(&configFile, "config", "", "the broker's configuration file (required)")
	_ = cmd.MarkFlagRequired("config") // the flag exists
	_ = cmd.MarkFlagFilename("config", "yaml", "yml")
	return cmd
}
