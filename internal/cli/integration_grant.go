package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/cli/terminal"
	"github.com/secretbroker/secretbroker/internal/integration"
)

// grantFlags are the flags of the grant to add or remove.
type grantFlags struct {
	writing
	etag  string
	grant client.Grant
}

func (g *grantFlags) register(cmd *cobra.Command) {
	g.writing.register(cmd)
	f := cmd.Flags()
	f.StringVar(&g.grant.ID, "grant-id", "", "name of the grant, or the id that describe shows for it")
	f.StringArrayVar(&g.grant.Principals, "principal", nil, "who: a SPIFFE ID, dns: and a host's name, or a pattern (repeatable)")
	f.StringArrayVar(&g.grant.Stores, "store", nil, "only of this store of the integration's, as references begin with it (repeatable)")
	f.StringArrayVar(&g.grant.Secrets, "secret", nil, "only secrets of this name, or beginning followed by * (repeatable)")
	f.StringArrayVar(&g.grant.Keys, "json-key", nil, "only this JSON key, or beginning followed by *, and no whole secret (repeatable)")
	f.StringVar(&g.etag, "etag", "", "change only if the integration still has this etag")
	for _, flag := range []string{"grant-id", "principal", "store", "secret", "json-key", "etag"} {
		terminal.CompleteWords(cmd, flag)
	}
}

func newIntegrationGrantCommand(kinds *integration.Kinds) *cobra.Command {
	g := grantFlags{writing: writing{managing: managing{kinds: kinds}}}
	cmd := &cobra.Command{
		Use:   "grant ID --principal PATTERN",
		Short: "Allow a principal to use an integration",
		Long: `Add a grant to an integration. What is not narrowed with --store, --secret or
--json-key stays open. It takes the role ASSIGNER or RESOURCE_OWNER.`,
		Example:           "  secretbroker integration grant cspi-sqlserver --principal 'spiffe://example.org/connect/*' --secret 'sqlserver-*'",
		Args:              idArgs(cobra.ExactArgs(1)),
		ValidArgsFunction: g.completeOneID,
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.do(cmd, func(ctx context.Context, cl *client.Client) error {
				out, err := cl.GrantUse(ctx, client.GrantUseRequest{IntegrationID: args[0], Grant: g.grant, ETag: g.etag, ValidateOnly: g.dryRun})
				if err != nil {
					return err
				}
				return g.done(cmd, "granted", out.Integration)
			})
		},
	}
	g.register(cmd)
	_ = cmd.MarkFlagRequired("principal") // the flag exists
	return cmd
}

func newIntegrationRevokeCommand(kinds *integration.Kinds) *cobra.Command {
	g := grantFlags{writing: writing{managing: managing{kinds: kinds}}}
	cmd := &cobra.Command{
		Use:   "revoke ID {--grant-id GRANT | --principal PATTERN}",
		Short: "Remove a grant",
		Long: `Remove a grant: the one with this id, or the one with exactly these principals,
stores, secrets and keys, in any order. This requires the role ASSIGNER or
RESOURCE_OWNER.`,
		Example: `  secretbroker integration revoke cspi-sqlserver --grant-id team-orders
  secretbroker integration revoke cspi-sqlserver --principal 'spiffe://example.org/connect/*' --secret 'sqlserver-*'`,
		Args:              idArgs(cobra.ExactArgs(1)),
		ValidArgsFunction: g.completeOneID,
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.do(cmd, func(ctx context.Context, cl *client.Client) error {
				out, err := cl.RevokeUse(ctx, client.RevokeUseRequest{IntegrationID: args[0], Grant: g.grant, ETag: g.etag, ValidateOnly: g.dryRun})
				if err != nil {
					return err
				}
				return g.done(cmd, "revoked", out.Integration)
			})
		},
	}
	g.register(cmd)
	cmd.MarkFlagsOneRequired("grant-id", "principal")
	return cmd
}
