package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/cli/exit"
	"github.com/secretbroker/secretbroker/internal/cli/terminal"
	"github.com/secretbroker/secretbroker/internal/integration"
)

func newIntegrationListCommand(kinds *integration.Kinds) *cobra.Command {
	var (
		m      = managing{kinds: kinds}
		filter string
		unused bool
	)
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the integrations that this caller has a role on",
		Long: `List the integrations that this caller has a role on.

--filter accepts terms joined by AND: comparisons of id, kind or display_name with =
or != and a value, which may end with *; and the words unused, read_only and faulty,
which NOT negates.`,
		Example: `  secretbroker integration list --filter 'kind = AZURE_KEY_VAULT AND NOT faulty'
  secretbroker integration list --unused`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if unused && filter != "" {
				filter = "unused AND " + filter
			} else if unused {
				filter = "unused"
			}
			return m.do(cmd, func(ctx context.Context, cl *client.Client) error {
				all, err := listIntegrations(ctx, cl, filter)
				if err != nil {
					return err
				}
				return printed(printIntegrations(cmd.OutOrStdout(), kinds, m.output, all, time.Now()))
			})
		},
	}
	m.register(cmd)
	cmd.Flags().StringVar(&filter, "filter", "", "list only integrations that match this filter")
	cmd.Flags().BoolVar(&unused, "unused", false, "list only integrations that were not used within the usage window")
	terminal.CompleteWords(cmd, "filter")
	return cmd
}

// printed returns the error of a failed write of the output.
func printed(err error) error {
	if err != nil {
		return &exit.Error{Code: exit.Failure, Err: err}
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
		Aliases:           []string{"get", "show"},
		Short:             "Show an integration, its grants, roles and usage",
		Long:              "Show an integration: its settings, its grants and roles, and the resources that use it.",
		Example:           "  secretbroker integration describe cspi-sqlserver",
		Args:              idArgs(cobra.ExactArgs(1)),
		ValidArgsFunction: m.completeOneID,
		RunE: func(cmd *cobra.Command, args []string) error {
			return m.do(cmd, func(ctx context.Context, cl *client.Client) error {
				out, err := cl.GetIntegration(ctx, client.GetIntegrationRequest{IntegrationID: args[0]})
				if err != nil {
					return err
				}
				usage, err := listUsage(ctx, cl, args[0], limit)
				if err != nil {
					return err
				}
				return printed(printIntegration(cmd.OutOrStdout(), kinds, m.output, out.Integration, usage))
			})
		},
	}
	m.register(cmd)
	cmd.Flags().IntVar(&limit, "resources", 20, "maximum number of resources to show; 0 for none")
	return cmd
}

// listUsage returns the latest uses of an integration, at most limit entries, or nil if limit
// is 0.
func listUsage(ctx context.Context, cl *client.Client, id string, limit int) (*client.ListUsageResponse, error) {
	if limit <= 0 {
		return nil, nil
	}
	usage := &client.ListUsageResponse{}
	for page, err := range cl.ListUsage(ctx, client.ListUsageRequest{IntegrationID: id, PageSize: limit}) {
		if err != nil {
			return nil, err
		}
		usage.UnusedGrantIDs = page.UnusedGrantIDs
		usage.Usage = append(usage.Usage, page.Usage...)
		if len(usage.Usage) >= limit {
			usage.Usage = usage.Usage[:limit]
			break
		}
	}
	return usage, nil
}

func newIntegrationValidateCommand(kinds *integration.Kinds) *cobra.Command {
	var (
		m   = managing{kinds: kinds}
		all bool
	)
	cmd := &cobra.Command{
		Use:   "validate [ID ...]",
		Short: "Check that the broker can reach the stores of integrations",
		Long: `Let the broker contact the stores of integrations, and report for each whether its
credential can be used, whether the store issues a token for it, and whether it may
read each of its vaults. The broker reads no value of a secret. A failed step is
reported with a remedy, and the command then exits with 6.`,
		Example:           "  secretbroker integration validate cspi-sqlserver\n  secretbroker integration validate --all",
		ValidArgsFunction: m.completeIDs,
		Args: idArgs(func(_ *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return fmt.Errorf("give the ids of integrations, or --all")
			}
			return nil
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("timeout") {
				m.conn.Timeout = 25 * time.Second // the broker waits up to 20 s for its stores
			}
			return m.do(cmd, func(ctx context.Context, cl *client.Client) error {
				if all {
					list, err := listIntegrations(ctx, cl, "")
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

// stepFailed reports whether a step failed, or was not tried because an earlier one did. A
// state that is not known counts as a failure.
func stepFailed(s client.ValidationStep) bool {
	return s.State != client.StepOK && s.State != client.StepUnchecked
}

func validateIntegrations(ctx context.Context, cmd *cobra.Command, cl *client.Client, output string, ids []string) error {
	results := make([]validation, len(ids))
	failed := false
	for i, id := range ids {
		var steps []client.ValidationStep
		out, err := cl.ValidateIntegration(ctx, client.ValidateIntegrationRequest{IntegrationID: id})
		if err == nil {
			steps = out.Steps
		}
		var refused *client.Error
		if errors.As(err, &refused) && len(ids) > 1 && refused.Reason != "" && refused.RequestID != "" {
			// A refusal for one integration must not hide the others.
			steps, err = []client.ValidationStep{{Step: "VALIDATE", State: client.StepFailed, Reason: refused.Reason, Message: refused.Message}}, nil
		}
		if err != nil {
			return err
		}
		results[i] = validation{id, steps}
		failed = failed || slices.ContainsFunc(steps, stepFailed)
	}
	if err := printed(printValidations(cmd.OutOrStdout(), output, results)); err != nil {
		return err
	}
	if failed {
		return &exit.Error{Code: exit.Precondition}
	}
	return nil
}
