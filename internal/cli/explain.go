package cli

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/cli/exit"
	"github.com/secretbroker/secretbroker/internal/cli/terminal"
	"github.com/secretbroker/secretbroker/internal/config"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/manage"
	"github.com/secretbroker/secretbroker/internal/registry/dirstore"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const explainHelp = `Show which principals may read the secret of a reference, and, with --principal,
why that caller may or may not read it. The command reads no secret.

By default the command asks a running broker, which answers only callers that its
configuration lists as auditors. With --config it needs no broker: it reads the
integrations of secretbroker.yaml itself. The TLS files and the credential files that
these name need not exist, so a checkout of the configuration is enough.

With --diff, the command compares two versions of the integrations. Each is a
secretbroker.yaml or a directory of integrations. Lines with + are permissions that only
NEW gives, lines with - are permissions that only OLD gives, and lines with ~ are
settings that differ. A grant that is only written differently is not a change.

Exit codes: 0 success, also if the caller may not read the secret; 2 the command
line, secretbroker.yaml or an integration's file is invalid; 3 the caller is not an
auditor of the broker; 4 the reference, the principal or the integration's id is
invalid; 7 no trusted broker answers at the address; 8 try again later; 1 other
failure. With --diff: 0 success; 2 an argument or a file is invalid; 9 there are
changes and --exit-code is given.`

func newExplainCommand(kinds *integration.Kinds) *cobra.Command {
	var (
		conn           Connection
		q              client.ExplainRequest
		configFile     string
		output         string
		diff, exitCode bool
	)
	cmd := &cobra.Command{
		Use:   "explain [flags] REFERENCE\n  secretbroker explain --diff [flags] OLD NEW",
		Short: "Show who may read a secret and why, or what a policy change grants and revokes",
		Long:  explainHelp,
		Example: `  secretbroker explain 'https://my-vault.vault.azure.net::db-secret::password'
  secretbroker explain --config secretbroker.yaml --principal spiffe://example.org/connect/worker-1 \
      'https://my-vault.vault.azure.net::db-secret'
  secretbroker explain --diff --exit-code deployed/integrations integrations`,
		Args: func(cmd *cobra.Command, args []string) error {
			if diff {
				return cobra.ExactArgs(2)(cmd, args)
			}
			return cobra.ExactArgs(1)(cmd, args)
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			if diff {
				return nil, cobra.ShellCompDirectiveDefault
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if diff {
				return explainDiff(cmd, kinds, output, exitCode, args[0], args[1])
			}
			if exitCode {
				return &exit.Error{Code: exit.Usage, Err: errors.New("--exit-code requires --diff")}
			}
			if cmd.Flags().Changed("integration") {
				if err := checkID("--integration", q.IntegrationID); err != nil {
					return &exit.Error{Code: exit.Usage, Err: err}
				}
			}
			q.Reference = args[0]
			if configFile != "" {
				return explainOffline(cmd, kinds, output, configFile, q)
			}
			return explainOnline(cmd, output, &conn, q)
		},
	}
	conn.register(cmd)
	terminal.RegisterOutput(cmd, &output, "table", "json")
	cmd.Flags().StringVar(&configFile, "config", "", "read the integrations of this secretbroker.yaml instead of asking a broker")
	cmd.Flags().StringVar(&q.IntegrationID, "integration", "", "consider only this integration (default: all)")
	cmd.Flags().StringVar(&q.Principal, "principal", "", "caller to explain: a SPIFFE ID, or dns: and a host name")
	cmd.Flags().BoolVar(&diff, "diff", false, "compare two versions of the integrations")
	cmd.Flags().BoolVar(&exitCode, "exit-code", false, "with --diff: exit with 9 if there are changes")
	for _, flag := range []string{"config", "integration", "principal", "addr"} {
		cmd.MarkFlagsMutuallyExclusive("diff", flag)
	}
	cmd.MarkFlagsMutuallyExclusive("config", "addr")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml") // the flag exists
	terminal.CompleteWords(cmd, "integration")
	terminal.CompleteWords(cmd, "principal")
	return cmd
}

func explainOnline(cmd *cobra.Command, output string, conn *Connection, q client.ExplainRequest) error {
	cl, err := conn.dial()
	if err != nil {
		return err
	}
	defer cl.Close()
	var e client.ExplainResponse
	for page, err := range cl.Explain(cmd.Context(), q) {
		if err != nil {
			out := printer{output: output}
			return out.printError(cmd, err)
		}
		e.Reference, e.RequestID = page.Reference, page.RequestID
		e.Readers = append(e.Readers, page.Readers...)
		e.Decisions = append(e.Decisions, page.Decisions...)
	}
	return printExplanation(cmd, output, &e)
}

// explainOffline answers like a broker with these files.
func explainOffline(cmd *cobra.Command, kinds *integration.Kinds, output, configFile string, q client.ExplainRequest) error {
	integrations, err := readIntegrations(kinds, configFile)
	if err != nil {
		return err
	}
	a, err := manage.Explain(integrations, manage.Question{
		Reference: q.Reference, IntegrationID: q.IntegrationID, Principal: q.Principal,
	})
	if err != nil {
		e := secret.AsError(err)
		out := printer{output: output}
		return out.printError(cmd, &client.Error{Reason: client.Reason(e.Reason), Message: e.Message})
	}
	return printExplanation(cmd, output, explanationOf(a))
}

// explanationOf converts an answer to the type that the client returns for it.
func explanationOf(a manage.Answer) *client.ExplainResponse {
	e := &client.ExplainResponse{Reference: a.Reference}
	for _, r := range a.Readers {
		e.Readers = append(e.Readers, client.Access(r))
	}
	for _, j := range a.Decisions {
		decision := client.Decision{
			IntegrationID: j.IntegrationID, Allowed: j.Allowed, GrantID: j.GrantID, Explanation: j.Explanation,
		}
		for _, m := range j.Grants {
			decision.Grants = append(decision.Grants, client.GrantMatch{
				GrantID: m.GrantID, PrincipalMatches: m.Principal != "", StoreMatches: m.Store, SecretMatches: m.Secret, KeyMatches: m.Key,
			})
		}
		e.Decisions = append(e.Decisions, decision)
	}
	return e
}

func explainDiff(cmd *cobra.Command, kinds *integration.Kinds, output string, exitCode bool, old, now string) error {
	before, err := readIntegrations(kinds, old)
	after, err2 := readIntegrations(kinds, now)
	switch {
	case err != nil || err2 != nil:
		return &exit.Error{Code: exit.Usage, Err: errors.Join(err, err2)}
	case len(before)+len(after) == 0: // two wrong directories have no differences
		return &exit.Error{Code: exit.Usage, Err: errors.New("neither side has an integration; give two secretbroker.yaml files or directories of integrations")}
	}
	changes := manage.ComparePolicies(before, after)
	if err := printChanges(cmd.OutOrStdout(), output, changes); err != nil {
		return &exit.Error{Code: exit.Failure, Err: err}
	}
	if exitCode && len(changes) > 0 {
		return &exit.Error{Code: exit.Findings}
	}
	return nil
}

// readIntegrations reads the integrations of a secretbroker.yaml or of a directory. It fails if
// any of them is invalid: an answer from a part of the grants would be wrong.
func readIntegrations(kinds *integration.Kinds, path string) ([]*integration.Integration, error) {
	dir := path
	if info, err := os.Stat(path); err != nil || !info.IsDir() {
		cfg, err := config.Load(path)
		if err != nil {
			return nil, &exit.Error{Code: exit.Usage, Err: err}
		}
		if dir = cfg.Registry.Directory.Path; dir == "" {
			return nil, &exit.Error{Code: exit.Usage, Err: fmt.Errorf("%s: the integrations are in a database; ask a running broker, or use a directory written by \"secretbroker integration export\"", path)}
		}
	}
	integrations, faults := dirstore.ReadPolicies(kinds, dir)
	if len(faults) > 0 {
		return nil, &exit.Error{Code: exit.Usage, Err: faults}
	}
	return integrations, nil
}
