package campaign

import (
	"cmp"
	"slices"
	"time"

	"github.com/secretbroker/secretbroker/internal/connectapi"
	"github.com/secretbroker/secretbroker/internal/connectmap"
)

// Listed is a cluster and its connectors.
type Listed struct {
	Settings   connectapi.Cluster
	Connectors []connectapi.Connector
}

// New makes a campaign for the connectors whose references selects selects. Connectors that
// must not be restarted are in it, too, as Skipped. It has no effect until an Engine runs it.
func New(id string, now time.Time, singleUser bool, clusters []Listed, selects func(*connectmap.Use) bool) *Campaign {
	c := &Campaign{ID: id, State: Pending, CreateTime: now, SingleUser: singleUser}
	for _, cluster := range clusters {
		for _, it := range cluster.Connectors {
			if added := planned(&cluster.Settings, &it, selects); added != nil {
				c.Connectors = append(c.Connectors, added)
			}
		}
	}
	c.order(now, clusters)
	return c
}

// planned returns a connector of a new campaign, nil if it has no rotated reference.
func planned(cluster *connectapi.Cluster, it *connectapi.Connector, selects func(*connectmap.Use) bool) *Connector {
	references, foreign := usesOf(cluster, it, selects)
	if len(references) == 0 && !foreign {
		return nil
	}
	added := &Connector{
		Cluster: cluster.Name, Name: it.Name, State: Pending, References: references,
		Tasks: len(it.Tasks), FailedBefore: condition(&it.Status).failed != "",
	}
	if added.Reason = whySkipped(cluster, it); added.Reason == "" && len(references) == 0 {
		added.Reason = "the worker reads the store itself, so the broker cannot prove anything"
	}
	if added.Reason != "" {
		added.State = Skipped
	}
	return added
}

// usesOf returns the rotated references of a connector. foreign reports that it has others,
// through config providers that are not the broker's.
func usesOf(cluster *connectapi.Cluster, it *connectapi.Connector, selects func(*connectmap.Use) bool) (references []Reference, foreign bool) {
	var m connectmap.Map
	m.Add(cluster, []connectapi.Connector{*it})
	for i := range m.Uses {
		foreign = foreign || !m.Uses[i].ThroughBroker() && selects(&m.Uses[i])
	}
	return referencesOf(m.Uses, selects), foreign
}

// whySkipped says why a connector must not be restarted, "" if it may be.
func whySkipped(cluster *connectapi.Cluster, it *connectapi.Connector) string {
	switch {
	case !cluster.Restarts.Allows(it.Name):
		return "connect.yaml does not allow its restart (restarts, include, exclude)"
	case it.Config["config.action.reload"] == "none":
		return "its configuration has config.action.reload=none"
	case it.State == connectapi.StatePaused || it.State == connectapi.StateStopped:
		return "it is " + it.State + "; restart it with its tasks when it is resumed, because resuming does not read secrets again"
	}
	return ""
}

// order sorts the connectors. With a single user, connectors that have failed come first:
// they have nothing to lose. Otherwise they come last, because their failure says nothing
// about the new version. Among equals, clusters whose window opens first come first.
func (c *Campaign) order(now time.Time, clusters []Listed) {
	opens := make(map[string]time.Time)
	for _, cluster := range clusters {
		if r := cluster.Settings.Restarts; r != nil {
			opens[cluster.Settings.Name] = r.Open(now)
		}
	}
	rank := func(it *Connector) int {
		switch {
		case it.State == Skipped:
			return 3
		case it.FailedBefore == c.SingleUser:
			return 1
		}
		return 2
	}
	slices.SortStableFunc(c.Connectors, func(a, b *Connector) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), opens[a.Cluster].Compare(opens[b.Cluster]), cmp.Compare(a.Cluster, b.Cluster), cmp.Compare(a.Name, b.Name))
	})
}

// canary returns the connector that must be proved before any other is restarted, and
// whether that is so. Skipped ones do not count.
func (c *Campaign) canary() (it *Connector, proved bool) {
	for _, it := range c.Connectors {
		if it.State != Skipped {
			it.Canary = true
			return it, it.State == Verified
		}
	}
	return nil, true
}
