package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/cli/exit"
	"github.com/secretbroker/secretbroker/internal/cli/reconcile"
	"github.com/secretbroker/secretbroker/internal/cli/terminal"
	"github.com/secretbroker/secretbroker/internal/integration"
)

const integrationHelp = `Manage the provider integrations of a running broker. The caller needs a role,
for all integrations (roles in secretbroker.yaml) or for a single one (roles of the
integration). Integrations that the broker reads from files can be shown but not
changed.

Exit codes of all these commands: 0 success; 1 other failure; 2 the command line or a file is invalid; 3 no role allows
the operation, or a placement rule forbids it; 4 the integration or the request is
invalid; 5 the integration does not exist; 6 the integration is in use or
read-only, was changed meanwhile, or does not work; 7 no trusted broker answers at the address;
8 try again later; 9 with --exit-code, there are differences.`

func newIntegrationCommand(kinds *integration.Kinds) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "integration",
		Short: "Manage provider integrations",
		Long:  integrationHelp,
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		newIntegrationCreateCommand(kinds), newIntegrationListCommand(kinds), newIntegrationDescribeCommand(kinds), newIntegrationUpdateCommand(kinds),
		newIntegrationDeleteCommand(kinds), newIntegrationValidateCommand(kinds), newIntegrationGrantCommand(kinds), newIntegrationRevokeCommand(kinds),
		newIntegrationApplyCommand(kinds), newIntegrationExportCommand(kinds),
	)
	return cmd
}

// managing is what the commands have in common: a broker, the kinds of stores and a
// way to print.
type managing struct {
	kinds  *integration.Kinds
	conn   Connection
	output string
}

func (m *managing) register(cmd *cobra.Command) {
	m.conn.register(cmd)
	terminal.RegisterOutput(cmd, &m.output, "table", "json", "yaml")
}

// do calls f with a client, and prints the error of f.
func (m *managing) do(cmd *cobra.Command, f func(ctx context.Context, cl *client.Client) error) error {
	cl, err := m.conn.dial()
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := f(cmd.Context(), cl); err != nil {
		if _, ours := err.(*exit.Error); ours { //nolint:errorlint // made right below
			return err
		}
		out := printer{output: m.output}
		return out.printError(cmd, err)
	}
	return nil
}

// listIntegrations returns all integrations that match the filter.
func listIntegrations(ctx context.Context, cl *client.Client, filter string) ([]*client.Integration, error) {
	var all []*client.Integration
	for in, err := range cl.ListIntegrations(ctx, client.ListIntegrationsRequest{Filter: filter}) {
		if err != nil {
			return nil, err
		}
		all = append(all, in)
	}
	return all, nil
}

// checkID returns an error if id cannot be an integration's id. what names the id in the
// error, which does not quote it.
func checkID(what, id string) error {
	if integration.ValidID(id) {
		return nil
	}
	return fmt.Errorf("%s: expected %s", what, integration.IDRule)
}

// idArgs returns a validator of arguments that are ids of integrations; number validates how
// many there are.
func idArgs(number cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := number(cmd, args); err != nil {
			return err
		}
		for i, id := range args {
			if err := checkID(fmt.Sprintf("argument %d, the id of an integration", i+1), id); err != nil {
				return err
			}
		}
		return nil
	}
}

// completeIDs completes the ids of integrations, if the broker answers within two seconds.
func (m *managing) completeIDs(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	m.conn.Timeout = 2 * time.Second
	cl, err := m.conn.dial()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer cl.Close()
	all, err := listIntegrations(cmd.Context(), cl, "")
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var ids []string
	for _, in := range all {
		if strings.HasPrefix(in.ID, toComplete) && !slices.Contains(args, in.ID) {
			ids = append(ids, cobra.CompletionWithDesc(in.ID, terminal.Printable(in.DisplayName)))
		}
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}

// completeOneID is completeIDs for commands with one argument.
func (m *managing) completeOneID(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return m.completeIDs(cmd, args, toComplete)
}

// readDocument reads an integration's file. The error lists all errors in the file with
// their lines.
func readDocument(kinds *integration.Kinds, path string) (*reconcile.Document, error) {
	data, err := readRegular(path)
	if err != nil {
		return nil, err
	}
	return reconcile.ParseDocument(kinds, path, data)
}

// readCredentials reads the files of --credential NAME=FILE.
func readCredentials(flags []string) (map[string][]byte, error) {
	credentials := make(map[string][]byte, len(flags))
	for _, flag := range flags {
		name, path, ok := strings.Cut(flag, "=")
		if !ok || name == "" || path == "" {
			return nil, fmt.Errorf("--credential: expected NAME=FILE, such as azure.credential.client_secret=secret.txt")
		}
		content, err := reconcile.ReadCredential(path)
		if err != nil {
			return nil, fmt.Errorf("--credential: %w", err)
		}
		credentials[name] = content
	}
	return credentials, nil
}
