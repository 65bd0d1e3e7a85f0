package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/internal/cli/exit"
	"github.com/secretbroker/secretbroker/internal/connectapi"
	"github.com/secretbroker/secretbroker/internal/connectmap"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// selection has the flags that choose clusters and what is used in them.
type selection struct {
	config      string
	clusters    []string
	connectors  []string
	integration string
	secret      string

	ref secret.Ref // that secret names
}

func (s *selection) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.config, "config", "connect.yaml", "file with the clusters of Kafka Connect")
	cmd.Flags().StringArrayVar(&s.clusters, "cluster", nil, "only this cluster of the file (repeatable)")
	cmd.Flags().StringArrayVar(&s.connectors, "connector", nil, `only connectors that match this pattern, in which "*" is any text (repeatable)`)
	cmd.Flags().StringVar(&s.integration, "integration", "", "only references of this integration")
	cmd.Flags().StringVar(&s.secret, "secret", "", "only this secret: a reference to it, of which version and JSON key do not matter")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml") // the flag exists
}

// load reads the configuration file and checks the flags.
func (s *selection) load() ([]connectapi.Cluster, error) {
	if s.secret != "" {
		ref, err := secret.ParseRef(s.secret)
		if err != nil {
			return nil, &exit.Error{Code: exit.Usage, Err: fmt.Errorf("--secret: %w", faultOfReference(err))}
		}
		s.ref = connectmap.SecretOf(ref)
	}
	if s.integration != "" {
		if err := checkID("--integration", s.integration); err != nil {
			return nil, &exit.Error{Code: exit.Usage, Err: err}
		}
	}
	cfg, err := connectapi.Load(s.config)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%s: there is no such file; write the clusters of Kafka Connect into one, see docs/connect-rotation.md, and name it with --config", s.config)
		}
		return nil, &exit.Error{Code: exit.Usage, Err: err}
	}
	if len(s.clusters) == 0 {
		return cfg.Clusters, nil
	}
	var chosen []connectapi.Cluster
	for _, name := range s.clusters {
		at := slices.IndexFunc(cfg.Clusters, func(c connectapi.Cluster) bool { return c.Name == name })
		if at < 0 {
			return nil, &exit.Error{Code: exit.Usage, Err: fmt.Errorf("--cluster: %s has no cluster %q", s.config, name)}
		}
		chosen = append(chosen, cfg.Clusters[at])
	}
	return chosen, nil
}

// selects reports whether the flags select a use.
func (s *selection) selects(u *connectmap.Use) bool {
	return (s.secret == "" || connectmap.Same(s.ref, u.Ref)) &&
		(s.integration == "" || s.integration == u.Integration) && s.selectsConnector(u.Connector)
}

func (s *selection) selectsConnector(name string) bool {
	return len(s.connectors) == 0 || slices.ContainsFunc(s.connectors, func(p string) bool { return connectapi.Match(p, name) })
}

// listedCluster is a cluster and what it answered.
type listedCluster struct {
	connectapi.Cluster
	client     *connectapi.Client
	connectors []connectapi.Connector
	err        error
}

// withClusters reads the configuration, asks the selected clusters for their connectors, and
// calls do. The clients of the clusters are closed when do returns.
func (s *selection) withClusters(ctx context.Context, do func([]listedCluster, *connectmap.Map) error) error {
	settings, err := s.load()
	if err != nil {
		return err
	}
	clusters, err := openClusters(settings)
	if err != nil {
		return err
	}
	defer func() {
		for _, c := range clusters {
			c.client.Close()
		}
	}()
	return do(clusters, listClusters(ctx, clusters))
}

// openClusters makes the clients. The caller closes them.
func openClusters(clusters []connectapi.Cluster) ([]listedCluster, error) {
	all := make([]listedCluster, len(clusters))
	for i, c := range clusters {
		client, err := connectapi.New(c)
		if err != nil {
			for _, open := range all[:i] {
				open.client.Close()
			}
			return nil, &exit.Error{Code: exit.Usage, Err: fmt.Errorf("cluster %q: %w", c.Name, err)}
		}
		all[i] = listedCluster{Cluster: c, client: client}
	}
	return all, nil
}

// listClusters asks all clusters for their connectors, each in its own goroutine, so that one
// that hangs delays the others by its timeout only.
func listClusters(ctx context.Context, clusters []listedCluster) *connectmap.Map {
	var wg sync.WaitGroup
	for i := range clusters {
		wg.Go(func() { clusters[i].connectors, clusters[i].err = clusters[i].client.List(ctx) })
	}
	wg.Wait()
	m := new(connectmap.Map)
	for i := range clusters {
		m.Add(&clusters[i].Cluster, clusters[i].connectors)
	}
	return m
}

// exitCodeOfCluster returns the exit code of an error of a cluster.
func exitCodeOfCluster(err error) int {
	switch connectapi.KindOf(err) {
	case connectapi.Denied:
		return exit.Denied
	case connectapi.Unavailable, connectapi.Uncertain:
		return exit.Unreachable
	case connectapi.Conflict:
		return exit.TryLater
	default:
		return exit.Failure
	}
}

// restartRule says whether a rotation may restart a connector.
func restartRule(c *connectapi.Cluster, connector *connectapi.Connector) string {
	switch {
	case c.Restarts == nil:
		return "no: the cluster has no section restarts"
	case !c.Restarts.Allows(connector.Name):
		return "no: include and exclude of the cluster do not allow it"
	case connector.Config["config.action.reload"] == "none":
		return "no: config.action.reload=none"
	case connector.State == connectapi.StatePaused || connector.State == connectapi.StateStopped:
		return "no: it is " + connector.State
	}
	return "yes"
}

func connectorState(c *connectapi.Connector) string {
	state := cmp.Or(c.State, "UNKNOWN")
	if failed := failedTasks(c); failed > 0 && state != connectapi.StateFailed {
		state = fmt.Sprintf("%s, %d of %d tasks FAILED", state, failed, len(c.Tasks))
	}
	return state
}

func failedTasks(c *connectapi.Connector) int {
	n := 0
	for _, t := range c.Tasks {
		if t.State == connectapi.StateFailed {
			n++
		}
	}
	return n
}
