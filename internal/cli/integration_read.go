package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/integration"
)

func newIntegrationListCommand(kinds *integration.Kinds) *cobra.Command {
	var (
		m      = managing{kinds: kinds}
		filter string
		unused bool
	)
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the integrations that this caller has a role on",
		Long: `List the integrations that this caller has a role on.

--filter takes comparisons joined by AND: id, kind and display_name with = or !=
and a value, which may end with *, and the words unused, read_only and faulty,
which NOT turns around.`,
		Example: `  broker integration list --filter 'kind = AZURE_KEY_VAULT AND NOT faulty'
  broker integration list --unused`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if unused && filter != "" {
				filter = "unused AND " + filter
			} else if unused {
				filter = "unused"
			}
			return m.do(cmd, func(ctx context.Context, cl *client.Client) error {
				all, err := cl.ListIntegrations(ctx, filter)
				if err != nil {
					return err
				}
				return printed(printIntegrations(cmd.OutOrStdout(), kinds, m.output, all, time.Now()))
			})
		},
	}
	m.register(cmd)
	cmd.Flags().StringVar(&filter, "filter", "", "only those for which this holds")
	cmd.Flags().BoolVar(&unused, "unused", false, "only those that nobody has used within the usage window")
	CompleteWords(cmd, "filter")
	return cmd
}

// printed makes the error of output that could not be written.
func printed(err error) error {
	if err != nil {
		return &ExitError{ExitFailure, err}
	}
	return nil
}

func newIntegrationDescribeCommand(kinds *integration.Kinds) *cobra.Command {
	var (
		m     = managing{kinds: kinds}
		limit int
	)
	cmd := &cobra.Command{
		Use:               "describe ID",
		Short:             "Show an integration, its grants and roles, and who uses it",
		Long:              "Show an integration: what it is and where, its grants and roles, and the resources that use it.",
		Example:           "  broker integration describe cspi-sqlserver",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: m.completeOneID,
		RunE: func(cmd *cobra.Command, args []string) error {
			return m.do(cmd, func(ctx context.Context, cl *client.Client) error {
				in, err := cl.GetIntegration(ctx, args[0])
				if err != nil {
					return err
				}
				var usage *client.UsageReport
				if limit > 0 {
					if usage, err = cl.ListUsage(ctx, args[0], limit); err != nil {
						return err
					}
				}
				return printed(printIntegration(cmd.OutOrStdout(), kinds, m.output, in, usage))
			})
		},
	}
	m.register(cmd)
	cmd.Flags().IntVar(&limit, "resources", 20, "how many of those that use it to show at most; 0 for none")
	return cmd
}

func newIntegrationValidateCommand(kinds *integration.Kinds) *cobra.Command {
	var (
		m   = managing{kinds: kinds}
		all bool
	)
	cmd := &cobra.Command{
		Use:   "validate [ID ...]",
		Short: "Have the broker contact the stores of integrations, and report what works",
		Long: `Have the broker contact the stores of integrations: can their credentials be
used, are they given a token, may they read each of their vaults? No secret's
value is read. What fails is reported with what to do about it, and makes the
command exit with 6.`,
		Example:           "  broker integration validate cspi-sqlserver\n  broker integration validate --all",
		ValidArgsFunction: m.completeIDs,
		Args: func(_ *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return fmt.Errorf("give the ids of integrations, or --all")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("timeout") {
				m.conn.Timeout = 25 * time.Second // the broker gives its stores 20
			}
			return m.do(cmd, func(ctx context.Context, cl *client.Client) error {
				if all {
					list, err := cl.ListIntegrations(ctx, "")
					if err != nil {
						return err
					}
					for _, in := range list {
						args = append(args, in.ID)
					}
				}
				return validateIntegrations(ctx, cmd, cl, m.output, args)
			})
		},
	}
	m.register(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "all integrations that this caller has a role on")
	return cmd
}

func validateIntegrations(ctx context.Context, cmd *cobra.Command, cl *client.Client, output string, ids []string) error {
	results := make([]validation, len(ids))
	failed := false
	for i, id := range ids {
		steps, err := cl.ValidateIntegration(ctx, id)
		var refused *client.Error
		if errors.As(err, &refused) && len(ids) > 1 && refused.Reason != "" && refused.RequestID != "" {
			// One that this caller may only look at does not hide the others.
			steps, err = []client.ValidationStep{{Name: "validate", Reason: refused.Reason, Message: refused.Message}}, nil
		}
		if err != nil {
			return err
		}
		results[i] = validation{id, steps}
		failed = failed || slices.ContainsFunc(steps, func(s client.ValidationStep) bool { return !s.OK })
	}
	if err := printed(printValidations(cmd.OutOrStdout(), output, results)); err != nil {
		return err
	}
	if failed {
		return &ExitError{Code: ExitPrecondition}
	}
	return nil
}
