package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/campaign"
	"github.com/secretbroker/secretbroker/internal/cli/exit"
	"github.com/secretbroker/secretbroker/internal/cli/terminal"
	"github.com/secretbroker/secretbroker/internal/connectmap"
)

// rotation is the rotate command.
type rotation struct {
	conn       Connection
	what       selection
	output     string
	dryRun     bool
	singleUser bool
	maxTime    time.Duration
}

func newRotateCommand() *cobra.Command {
	r := new(rotation)
	cmd := &cobra.Command{
		Use:   "rotate --secret REFERENCE | --integration ID",
		Short: "Restart the connectors that use a rotated secret, and prove that they have it",
		Long: `Restart the connectors of Kafka Connect that use a secret, or the secrets of an
integration, and prove that they have read the current version. Run the command after
the new version is stored. Other connectors are not touched.

It restarts one connector, the canary, with all its tasks, and goes on with the others
when the canary is proved, within the limits in connect.yaml. Before each restart it
makes the broker read the secret, and it waits while the broker cannot. If a connector
fails, it stops and says what to do. A connector is proved when its restart was
accepted, the workers that run it have read the new version afterwards and no older
one, and it has been RUNNING with all its tasks for the settle time. Otherwise it is
STALLED, and the report says what is missing. docs/connect-rotation.md has the details.

--dry-run prints the order, restarts nothing and needs no broker. The state is in the
memory of the process: if it ends early, look at the report, and run it again.

The caller needs the role ROTATOR or RESOURCE_OWNER on the integrations.

Exit codes: 0 every connector that may be restarted is proved, or there is none; 2 the
command line or connect.yaml is invalid; 6 halted, because a connector failed; 9 a
part of a proof is missing; 1 interrupted, or --max-time is over; 3, 7 or 8 a cluster
refuses the credential, cannot be reached or is rebalancing at the beginning; otherwise
the code of the broker's failure at the beginning, as for "secretbroker refresh".`,
		Example: `  secretbroker connect rotate --dry-run --secret https://my-vault.vault.azure.net::orders-db
  secretbroker connect rotate --secret https://my-vault.vault.azure.net::orders-db`,
		Args: cobra.NoArgs,
		RunE: r.run,
	}
	r.conn.register(cmd)
	r.what.register(cmd)
	terminal.RegisterOutput(cmd, &r.output, "table", "json", "line")
	cmd.Flags().BoolVar(&r.dryRun, "dry-run", false, "print what would be restarted, in which order")
	cmd.Flags().BoolVar(&r.singleUser, "single-user", false, "the old login has ended with the rotation: restart connectors that have FAILED first")
	durationVar(cmd.Flags(), &r.maxTime, "max-time", 4*time.Hour, "end the command after this time")
	return cmd
}

func (r *rotation) run(cmd *cobra.Command, _ []string) error {
	if r.what.secret == "" && r.what.integration == "" {
		return &exit.Error{Code: exit.Usage, Err: errors.New("give --secret or --integration: what was rotated")}
	}
	return r.what.withClusters(cmd.Context(), func(clusters []listedCluster, m *connectmap.Map) error {
		return r.rotate(cmd, clusters, m)
	})
}

// rotate restarts the selected connectors of the clusters, or prints their order.
func (r *rotation) rotate(cmd *cobra.Command, clusters []listedCluster, m *connectmap.Map) error {
	var listed []campaign.Listed
	for _, c := range clusters {
		if c.err != nil {
			return &exit.Error{Code: exitCodeOfCluster(c.err), Err: fmt.Errorf("%w; nothing was restarted; use --cluster to leave the cluster out", c.err)}
		}
		listed = append(listed, campaign.Listed{Settings: c.Cluster, Connectors: c.connectors})
	}
	for _, f := range m.Faults {
		if r.what.selectsConnector(f.Connector) {
			fmt.Fprintf(cmd.ErrOrStderr(), "cannot interpret %s of connector %s, cluster %s: %s\n", terminal.Printable(f.Property), terminal.Printable(f.Connector), terminal.Printable(f.Cluster), f.Text)
		}
	}
	c := campaign.New(rand.Text(), time.Now(), r.singleUser, listed, r.selects)
	if r.dryRun {
		return r.printOrder(cmd, c)
	}
	return r.restart(cmd, clusters, c)
}

func (r *rotation) selects(u *connectmap.Use) bool { return r.what.selects(u) }

// restart runs the campaign.
func (r *rotation) restart(cmd *cobra.Command, clusters []listedCluster, c *campaign.Campaign) error {
	cl, err := r.conn.dial()
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(cmd.Context(), r.maxTime)
	defer cancel()
	broker := &rotationBroker{client: cl}
	if err := r.tryBroker(ctx, cmd, broker, c); err != nil {
		return err
	}
	cfg := campaign.Config{
		Clusters: make(map[string]campaign.Cluster), Broker: broker, Store: memoryStore{}, Selects: r.selects, Poll: time.Second,
		Changed: func(it campaign.Connector) {
			fmt.Fprintf(cmd.ErrOrStderr(), "%s  %-8s  %s/%s  %s\n", time.Now().UTC().Format(time.RFC3339), it.State, terminal.Printable(it.Cluster), terminal.Printable(it.Name), terminal.Printable(it.Reason))
		},
	}
	for _, cluster := range clusters {
		cfg.Clusters[cluster.Name] = campaign.Cluster{Settings: cluster.Cluster, API: cluster.client}
	}
	e, err := campaign.NewEngine(cfg, c)
	if err != nil {
		return &exit.Error{Code: exit.Failure, Err: err}
	}
	ended := e.Run(ctx)
	return r.report(cmd, e.Campaign(), ended)
}

// tryBroker makes the broker read the secrets once, so that a mistake in the roles or a
// broker that is down is a failure of the command and not a wait.
func (r *rotation) tryBroker(ctx context.Context, cmd *cobra.Command, broker *rotationBroker, c *campaign.Campaign) error {
	tried := make(map[[2]string]bool)
	for _, it := range c.Connectors {
		for _, ref := range it.References {
			key := [2]string{ref.Integration, ref.Reference}
			if it.State == campaign.Skipped || tried[key] {
				continue
			}
			tried[key] = true
			if _, err := broker.Refresh(ctx, ref.Integration, []string{ref.Reference}); err != nil {
				code := exitCodeOf(err)
				if e, ok := errors.AsType[*client.Error](err); ok && e.Reason != "" {
					code = ExitCodeOfReason(e.Reason)
				}
				return &exit.Error{Code: code, Err: fmt.Errorf("the broker cannot read the secret, so nothing was restarted: %w", err)}
			}
		}
	}
	if broker.alone {
		fmt.Fprintln(cmd.ErrOrStderr(), "the broker shares no database with other replicas: if there are any, they may answer with the previous version, and their reads are not a part of the proof")
	}
	return nil
}
