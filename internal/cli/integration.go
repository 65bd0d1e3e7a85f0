package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const integrationHelp = `Manage the provider integrations of a running broker. The caller needs a role,
for all integrations (roles in broker.yaml) or for the one in question (roles of
the integration). Integrations that are files of the broker's can be looked at and
not changed.

Exit codes, of all these commands: 0 done; 1 other failure, or, with --exit-code,
there are differences; 2 the command line or a file is wrong; 3 no role allows it,
or a placement rule forbids it; 4 the integration or the request is not
acceptable; 5 there is no such integration; 6 it is in use, read-only, has been
changed meanwhile, or does not work; 7 no broker answers at the address, or not
one that is trusted; 8 try again later.`

func newIntegrationCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "integration",
		Short: "Manage provider integrations",
		Long:  integrationHelp,
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		newIntegrationCreateCommand(), newIntegrationListCommand(), newIntegrationDescribeCommand(), newIntegrationUpdateCommand(),
		newIntegrationDeleteCommand(), newIntegrationValidateCommand(), newIntegrationGrantCommand(), newIntegrationRevokeCommand(),
		newIntegrationApplyCommand(), newIntegrationExportCommand(),
	)
	return cmd
}

// managing is what the commands have in common: a broker and a way to print.
type managing struct {
	conn   Connection
	output string
}

func (m *managing) register(cmd *cobra.Command) {
	m.conn.register(cmd)
	RegisterOutput(cmd, &m.output, "table", "json", "yaml")
}

// do runs f with a client and prints its error.
func (m *managing) do(cmd *cobra.Command, f func(ctx context.Context, cl *client.Client) error) error {
	cl, err := m.conn.dial()
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := f(cmd.Context(), cl); err != nil {
		if _, ours := err.(*ExitError); ours { //nolint:errorlint // made right below
			return err
		}
		out := printer{output: m.output}
		return out.printError(cmd, err)
	}
	return nil
}

// completeIDs completes the ids of integrations, as long as the broker answers
// within a moment.
func (m *managing) completeIDs(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	m.conn.Timeout = 2 * time.Second
	cl, err := m.conn.dial()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer cl.Close()
	all, err := cl.ListIntegrations(cmd.Context(), "")
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var ids []string
	for _, in := range all {
		if strings.HasPrefix(in.ID, toComplete) && !slices.Contains(args, in.ID) {
			ids = append(ids, cobra.CompletionWithDesc(in.ID, Printable(in.DisplayName)))
		}
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}

// completeOneID is completeIDs for commands that take one.
func (m *managing) completeOneID(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return m.completeIDs(cmd, args, toComplete)
}

// document is an integration's file on this machine.
type document struct {
	path string
	integration.FormFile
	// credentials are the files that it names for credentials, by the name under
	// which the broker keeps them. They are taken out of the form.
	credentials map[string]string
}

// readDocument reads an integration's file. The error is for the person who wrote
// it, with all faults.
func readDocument(path string) (*document, error) {
	data, err := readRegular(path)
	if err != nil {
		return nil, err
	}
	d := &document{path: path, FormFile: integration.ParseForm(path, data)}
	if err := d.Faults.Err(); err != nil {
		return nil, err
	}
	d.credentials = d.CredentialFiles(filepath.Dir(path))
	return d, nil
}

// integration makes what is sent of the document, with the credentials named.
func (d *document) integration(names []string) (*client.Integration, error) {
	in := integrationOf(&d.Form)
	for _, name := range names {
		content, err := readCredential(d.credentials[name])
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", d.path, name, err)
		}
		if in.Credentials == nil {
			in.Credentials = make(map[string][]byte)
		}
		in.Credentials[name] = content
	}
	return in, nil
}

// maxCredentialFile is well above what any store's credential has.
const maxCredentialFile = 64 << 10

// readCredential reads a file with a credential; "-" is standard input.
func readCredential(path string) ([]byte, error) {
	if path == "-" {
		path = "/dev/stdin"
	}
	data, err := os.ReadFile(path)
	switch {
	case err != nil:
		return nil, err
	case len(data) == 0:
		return nil, fmt.Errorf("%s is empty", path)
	case len(data) > maxCredentialFile:
		return nil, fmt.Errorf("%s is larger than 64 KiB", path)
	}
	return data, nil
}

// readCredentials reads what --credential NAME=FILE names.
func readCredentials(flags []string) (map[string][]byte, error) {
	credentials := make(map[string][]byte, len(flags))
	for _, flag := range flags {
		name, path, ok := strings.Cut(flag, "=")
		if !ok || name == "" || path == "" {
			return nil, fmt.Errorf("--credential: expected NAME=FILE, such as azure.credential.client_secret=secret.txt")
		}
		content, err := readCredential(path)
		if err != nil {
			return nil, fmt.Errorf("--credential: %w", err)
		}
		credentials[name] = content
	}
	return credentials, nil
}

// integrationOf is what the client takes of a form.
func integrationOf(f *integration.Form) *client.Integration {
	in := &client.Integration{
		ID: f.ID, DisplayName: f.DisplayName, Kind: string(f.Kind), Settings: numbersAsFloats(f.Settings()),
		CacheTTL: time.Duration(f.Cache.TTL), CacheMaxStale: time.Duration(f.Cache.MaxStale),
		Limits: client.IntegrationLimits{
			MaxConcurrentReads: f.Limits.MaxConcurrentReads, ReadsPerSecond: f.Limits.ReadsPerSecond, Timeout: time.Duration(f.Limits.Timeout),
		},
		Placement: client.Placement{Cloud: f.Placement.Cloud, Region: f.Placement.Region},
		Roles:     make(map[client.Role][]string),
	}
	for _, g := range f.Grants {
		in.Grants = append(in.Grants, client.Grant{Principals: g.Principals, Vaults: g.Vaults, Stores: g.Stores, Secrets: g.Secrets, Keys: g.Keys})
	}
	for role, patterns := range f.Roles.Bindings() {
		in.Roles[client.Role(role)] = patterns
	}
	return in
}

// numbersAsFloats is what the client's settings are: as an answer has them.
func numbersAsFloats(m map[string]any) map[string]any {
	var convert func(v any) any
	convert = func(v any) any {
		switch v := v.(type) {
		case int:
			return float64(v)
		case map[string]any:
			return numbersAsFloats(v)
		case []any:
			for i := range v {
				v[i] = convert(v[i])
			}
		}
		return v
	}
	for k, v := range m {
		m[k] = convert(v)
	}
	return m
}

// formOf is the form of what a broker answered.
func formOf(in *client.Integration) (*integration.Form, error) {
	f := &integration.Form{ID: in.ID, DisplayName: in.DisplayName, Kind: secret.Kind(in.Kind)}
	if len(in.Settings) > 0 {
		if err := f.SetSettings(in.Settings); err != nil {
			return nil, fmt.Errorf("%s: this version of the command does not understand the broker's answer: %w", in.ID, err)
		}
	}
	f.Cache.SetTTL(in.CacheTTL)
	f.Cache.SetMaxStale(in.CacheMaxStale)
	f.Limits.MaxConcurrentReads, f.Limits.ReadsPerSecond = in.Limits.MaxConcurrentReads, in.Limits.ReadsPerSecond
	f.Limits.SetTimeout(in.Limits.Timeout)
	f.Placement = integration.Placement{Cloud: in.Placement.Cloud, Region: in.Placement.Region}
	for _, g := range in.Grants {
		f.Grants = append(f.Grants, integration.FormGrant{Principals: g.Principals, Vaults: g.Vaults, Stores: g.Stores, Secrets: g.Secrets, Keys: g.Keys})
	}
	f.Roles = integration.FormRoles{
		ResourceOwner: in.Roles[client.Role(authz.ResourceOwner)], Assigner: in.Roles[client.Role(authz.Assigner)], Auditor: in.Roles[client.Role(authz.Auditor)],
	}
	return f, nil
}
