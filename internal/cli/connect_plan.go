package cli

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/internal/cli/exit"
	"github.com/secretbroker/secretbroker/internal/cli/terminal"
	"github.com/secretbroker/secretbroker/internal/connectapi"
	"github.com/secretbroker/secretbroker/internal/connectmap"
)

func newConnectPlanCommand() *cobra.Command {
	var (
		what   selection
		output string
	)
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Print which connectors use which secrets",
		Long: `Print which connectors of the clusters in connect.yaml use which secrets, in which
property and how: what breaks if a secret leaks or is rotated. The command reads the
configurations and the states of all connectors. It needs no broker, reads no secret
and changes nothing, and it prints nothing of a configuration except references.

It finds the placeholders of the broker's config provider, secret.manager properties,
and the placeholders of other config providers that connect.yaml lists. References that
it cannot interpret are listed as well. RESTART says whether "secretbroker connect
rotate" may restart the connector.

Exit codes: 0 success, also if no connector uses the secret; 2 the command line or
connect.yaml is invalid; 3, 7 or 8 a cluster refuses the credential, cannot be reached
or is rebalancing, and its connectors are missing from the output; 9 there are
references that cannot be interpreted.`,
		Example: `  secretbroker connect plan
  secretbroker connect plan --secret https://my-vault.vault.azure.net::orders-db
  secretbroker connect plan --integration cspi-sqlserver --output json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return what.withClusters(cmd.Context(), func(clusters []listedCluster, m *connectmap.Map) error {
				return newConnectPlanJSON(&what, clusters, m).print(cmd, output)
			})
		},
	}
	what.register(cmd)
	terminal.RegisterOutput(cmd, &output, "table", "json")
	return cmd
}

type (
	// ConnectPlanJSON is the JSON output of connect plan.
	ConnectPlanJSON struct {
		// Secrets are sorted by reference.
		Secrets []SecretUsesJSON `json:"secrets"`
		// Unparsed are references that cannot be interpreted, and Foreign placeholders of
		// config providers that connect.yaml does not list.
		Unparsed []UnparsedJSON `json:"unparsed,omitempty"`
		Foreign  []ForeignJSON  `json:"foreign,omitempty"`
		// Failed are the clusters that did not answer.
		Failed []FailedClusterJSON `json:"failed,omitempty"`
		// Connectors is the number of connectors that were examined, of all clusters.
		Connectors int `json:"connectors"`

		failure error
	}
	// SecretUsesJSON is one secret and what uses it.
	SecretUsesJSON struct {
		Secret string    `json:"secret"`
		Kind   string    `json:"kind"`
		Uses   []UseJSON `json:"uses"`
	}
	// UseJSON is one reference in a connector.
	UseJSON struct {
		Cluster     string `json:"cluster"`
		Connector   string `json:"connector"`
		State       string `json:"state"`
		Property    string `json:"property"`
		Integration string `json:"integration,omitempty"`
		Label       string `json:"label,omitempty"`
		Version     string `json:"version,omitempty"`
		JSONKey     string `json:"json_key,omitempty"`
		Form        string `json:"form"`
		// Restart is "yes", or "no: REASON".
		Restart string `json:"restart"`
	}
	// UnparsedJSON is a reference that cannot be interpreted.
	UnparsedJSON struct {
		Cluster   string `json:"cluster"`
		Connector string `json:"connector"`
		Property  string `json:"property"`
		Problem   string `json:"problem"`
	}
	// ForeignJSON is a placeholder of an unlisted config provider.
	ForeignJSON struct {
		Cluster   string `json:"cluster"`
		Connector string `json:"connector"`
		Property  string `json:"property"`
		Provider  string `json:"provider"`
	}
	// FailedClusterJSON is a cluster that did not answer.
	FailedClusterJSON struct {
		Cluster string `json:"cluster"`
		Error   string `json:"error"`
	}
)

func newConnectPlanJSON(what *selection, clusters []listedCluster, m *connectmap.Map) *ConnectPlanJSON {
	p := &ConnectPlanJSON{Secrets: []SecretUsesJSON{}, Connectors: m.Connectors}
	type key struct{ cluster, connector string }
	connectors := make(map[key]*connectapi.Connector)
	byName := make(map[string]*connectapi.Cluster)
	for i := range clusters {
		c := &clusters[i]
		byName[c.Name] = &c.Cluster
		if c.err != nil {
			p.Failed = append(p.Failed, FailedClusterJSON{c.Name, c.err.Error()})
			p.failure = c.err
		}
		for j := range c.connectors {
			connectors[key{c.Name, c.connectors[j].Name}] = &c.connectors[j]
		}
	}
	secrets := make(map[string]*SecretUsesJSON)
	for i := range m.Uses {
		u := &m.Uses[i]
		if !what.selects(u) {
			continue
		}
		connector := connectors[key{u.Cluster, u.Connector}]
		of := connectmap.SecretOf(u.Ref)
		name := of.String()
		if secrets[name] == nil {
			secrets[name] = &SecretUsesJSON{Secret: name, Kind: string(of.Kind)}
		}
		restart := restartRule(byName[u.Cluster], connector)
		if restart == "yes" && !u.ThroughBroker() {
			restart = "no: the worker reads the store itself"
		}
		secrets[name].Uses = append(secrets[name].Uses, UseJSON{
			Cluster: u.Cluster, Connector: u.Connector, State: connectorState(connector), Property: u.Property, Integration: u.Integration,
			Label: u.Label, Version: u.Ref.Version, JSONKey: u.Ref.Key, Form: u.Form, Restart: restart,
		})
	}
	for _, name := range slices.Sorted(maps.Keys(secrets)) {
		p.Secrets = append(p.Secrets, *secrets[name])
	}
	// What cannot be interpreted may name any secret and integration.
	for _, f := range m.Faults {
		if what.selectsConnector(f.Connector) {
			p.Unparsed = append(p.Unparsed, UnparsedJSON{f.Cluster, f.Connector, f.Property, f.Text})
		}
	}
	for _, f := range m.Foreign {
		if what.selectsConnector(f.Connector) {
			p.Foreign = append(p.Foreign, ForeignJSON(f))
		}
	}
	return p
}

func (p *ConnectPlanJSON) print(cmd *cobra.Command, output string) error {
	var err error
	if output == "json" {
		err = terminal.PrintJSON(cmd.OutOrStdout(), p)
	} else {
		err = p.printTable(cmd)
	}
	switch {
	case err != nil:
		return &exit.Error{Code: exit.Failure, Err: err}
	case p.failure != nil:
		return &exit.Error{Code: exitCodeOfCluster(p.failure)}
	case len(p.Unparsed) > 0:
		return &exit.Error{Code: exit.Findings}
	}
	return nil
}

func (p *ConnectPlanJSON) printTable(cmd *cobra.Command) error {
	t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
	used := make(map[[2]string]bool)
	for i, s := range p.Secrets {
		if i == 0 {
			fmt.Fprintln(t, "SECRET\tCLUSTER\tCONNECTOR\tSTATE\tPROPERTY\tINTEGRATION\tFORM\tRESTART")
		}
		for _, u := range s.Uses {
			used[[2]string{u.Cluster, u.Connector}] = true
			name := s.Secret
			if u.Version != "" {
				name += "#" + u.Version
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", terminal.Printable(name), terminal.Printable(u.Cluster), terminal.Printable(u.Connector),
				terminal.Printable(u.State), terminal.Printable(u.Property), terminal.OrDash(u.Integration), u.Form, u.Restart)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%d of %d connectors use %d secrets\n", len(used), p.Connectors, len(p.Secrets))
	w := cmd.ErrOrStderr()
	for _, f := range p.Unparsed {
		fmt.Fprintf(w, "cannot interpret %s of connector %s, cluster %s: %s\n", terminal.Printable(f.Property), terminal.Printable(f.Connector), terminal.Printable(f.Cluster), f.Problem)
	}
	foreign := make(map[string]int)
	for _, f := range p.Foreign {
		foreign[f.Provider]++
	}
	for _, provider := range slices.SortedFunc(maps.Keys(foreign), cmp.Compare[string]) {
		fmt.Fprintf(w, "not examined: %d placeholders of the config provider %s; --output json lists them; if they name secrets, list the provider under other_providers\n",
			foreign[provider], terminal.Printable(provider))
	}
	for _, f := range p.Failed {
		fmt.Fprintf(w, "incomplete: %s\n", terminal.Printable(f.Error))
	}
	return nil
}
