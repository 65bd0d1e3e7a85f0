//go:build unix

package app

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/secretbroker/secretbroker/client"
	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/config"
	"github.com/secretbroker/secretbroker/internal/devmode"
	"github.com/secretbroker/secretbroker/internal/devmode/keyvault"
	"github.com/secretbroker/secretbroker/internal/events/eventstest"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// eventQueue is the queue of the sample integration.
const eventQueue = "https://" + keyvault.QueueHost + "/" + keyvault.QueueName

// newEventCluster returns two replicas in this process, of which each receives events from
// one of the queues.
func newEventCluster(t *testing.T, queues ...*eventstest.Queue) (c *cluster, metrics []*prometheus.Registry) {
	t.Helper()
	c = newCluster(t, 0)
	for i, q := range queues {
		r := c.newReplica(i, nil)
		cfg, err := config.Load(r.config)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Watch.Splay = 0
		log := &asynctest.Buffer{}
		ctx, cancel := context.WithCancel(context.Background())
		ready, ended := make(chan listening, 1), make(chan error, 1)
		go func() {
			ended <- serve(ctx, cfg, slog.New(slog.NewTextHandler(log, nil)), process{
				eventOpeners: map[secret.Kind]provider.EventOpener{secret.KindAzureKeyVault: q.Opener()},
				onReady:      func(l listening) { ready <- l },
			})
		}()
		t.Cleanup(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("a replica: %v", err)
			}
			if t.Failed() {
				t.Logf("replica %d:\n%s", i, log.String())
			}
		})
		select {
		case l := <-ready:
			r.addr, r.admin = l.addr.String(), l.adminAddr.String()
			metrics = append(metrics, l.metrics)
		case err := <-ended:
			ended <- err
			t.Fatal(err)
		}
		c.replicas = append(c.replicas, r)
	}
	return c, metrics
}

// storeReads returns how many reads of stores a broker has made.
func storeReads(t *testing.T, metrics *prometheus.Registry) (n int) {
	t.Helper()
	all, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range all {
		if family.GetName() == "secretbroker_store_reads_total" {
			for _, m := range family.GetMetric() {
				n += int(m.GetCounter().GetValue())
			}
		}
	}
	return n
}

// TestEventReachesTheOtherReplica: the replica that receives an event and has no watchers
// reads the secret, and the watcher at the other one is told. The message is handled once,
// what the other replica has cached is replaced, and a flood of events causes few reads.
func TestEventReachesTheOtherReplica(t *testing.T) {
	queue, empty := eventstest.NewQueue(), eventstest.NewQueue()
	c, metrics := newEventCluster(t, queue, empty)
	c.create("rotated")
	r := &rotation{c, "$trongPassw0rdExamp1e"}
	receiving, watching := c.replicas[0], c.replicas[1]
	toReceiving, toWatching := c.client(nil, receiving), c.client(nil, watching)
	for _, cl := range []*client.Client{toReceiving, toWatching} {
		c.await("the replica has the integration", func() bool { return ask(t.Context(), cl, "rotated") == nil })
	}
	stream, err := secretbrokerv1.NewWatchServiceClient(dialBroker(t, watching.addr, r.CAFile, r.Worker)).Watch(t.Context(), &secretbrokerv1.WatchRequest{
		Sets: []*secretbrokerv1.WatchSet{{IntegrationId: "rotated", Configs: map[string]string{"p": rotatedRef}}}})
	if err != nil {
		t.Fatal(err)
	}
	next := func() *secretbrokerv1.Notice {
		t.Helper()
		for {
			m, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if len(m.GetNotices()) > 0 {
				return m.GetNotices()[0]
			}
		}
	}
	if n := next(); n.GetState() != secretbrokerv1.Notice_STATE_CURRENT {
		t.Fatalf("%v", n)
	}
	c.await("the source is open", func() bool { return queue.Stats().Opened == 1 && empty.Stats().Opened == 1 })

	// The store may answer the old value for a moment. A version that it never has makes the
	// broker repeat the read.
	r.rotate("n3w-Passw0rd-1")
	began := time.Now()
	queue.SendEvent(provider.Event{Store: devmode.VaultURL, Name: "sqlserver-db-secret", Version: strings.Repeat("0", 32), Type: "changed"})
	if n := next(); n.GetState() != secretbrokerv1.Notice_STATE_CHANGED {
		t.Errorf("%v", n)
	}
	t.Logf("the watcher at the other replica is told after %v", time.Since(began).Round(time.Millisecond))
	c.await("the other replica answers the new value", func() bool { value, _ := r.get(toWatching, false); return value == r.value })
	c.await("the message is acknowledged", func() bool { return queue.Len() == 0 })
	if s := queue.Stats(); s.Delivered != 1 || s.Acknowledged != 1 || empty.Stats().Delivered != 0 {
		t.Errorf("%+v, %+v", s, empty.Stats())
	}

	owner := c.client(func(cfg *client.Config) { cfg.CertFile, cfg.KeyFile = r.Owner.CertFile, r.Owner.KeyFile }, receiving)
	out, err := owner.GetIntegration(t.Context(), client.GetIntegrationRequest{IntegrationID: "rotated"})
	if err != nil || len(out.Integration.EventSources) != 1 {
		t.Fatalf("%+v, %v", out, err)
	}
	if s := out.Integration.EventSources[0]; s.Name != eventQueue || s.State != client.EventSourceWorking || s.Counts["read"] != 1 ||
		s.LastEventTime.Before(began) || s.LastPollTime.IsZero() || !strings.HasSuffix(s.Replica, "127.0.0.1:"+strings.Split(receiving.addr, ":")[1]) {
		t.Errorf("%+v", s)
	}
	steps, err := owner.ValidateIntegration(t.Context(), client.ValidateIntegrationRequest{IntegrationID: "rotated"})
	if err != nil || !slices.ContainsFunc(steps.Steps, func(s client.ValidationStep) bool { return s.Step == "EVENTS" && s.State == client.StepOK }) {
		t.Errorf("%+v, %v", steps, err)
	}
	floodWithEvents(t, metrics[0], queue, toReceiving)
}

// floodWithEvents puts 10,000 forged events into a queue, and checks that calls are answered
// meanwhile and that the vault is hardly read.
func floodWithEvents(t *testing.T, metrics *prometheus.Registry, queue *eventstest.Queue, cl *client.Client) {
	t.Helper()
	before := storeReads(t, metrics)
	flood := make([]provider.EventMessage, 10_000)
	for i := range flood {
		name := "sqlserver-db-secret"
		if i%2 > 0 {
			name = fmt.Sprintf("forged-%d", i)
		}
		flood[i].Events = []provider.Event{{Store: devmode.VaultURL, Name: name, Version: fmt.Sprintf("%032x", i), Type: "changed"}}
	}
	queue.Send(flood...)
	began, slowest := time.Now(), time.Duration(0)
	for time.Since(began) < 3*time.Second || queue.Stats().Delivered < 500 {
		start := time.Now()
		if _, err := cl.Resolve(t.Context(), client.ResolveRequest{IntegrationID: "rotated", Configs: map[string]string{"p": rotatedRef}}); err != nil {
			t.Fatal(err)
		}
		slowest = max(slowest, time.Since(start))
	}
	reads, took := storeReads(t, metrics)-before, time.Since(began)
	if most := 2 + int(took/time.Second)*2; reads > most {
		t.Errorf("%d reads in %v, want at most %d", reads, took, most)
	}
	t.Logf("%d messages in %v caused %d reads; the slowest Resolve took %v", queue.Stats().Delivered, took.Round(time.Millisecond), reads, slowest.Round(time.Microsecond))
}

// TestEventLatency measures the time from an event to the notice of a watcher, at the replica
// that receives the event and at the other one, for docs/performance.md. Each secret changes
// once.
func TestEventLatency(t *testing.T) {
	if os.Getenv("SECRETBROKER_SCALING") == "" {
		t.Skip("SECRETBROKER_SCALING is not set")
	}
	const rotations = 100
	queue, empty := eventstest.NewQueue(), eventstest.NewQueue()
	c, _ := newEventCluster(t, queue, empty)
	if err := replace(c.SecretsFile, vaultOf(rotations)); err != nil {
		t.Fatal(err)
	}
	c.create("rotated")
	c.document = strings.Join(slices.DeleteFunc(strings.SplitAfter(c.document, "\n"), func(line string) bool {
		return strings.Contains(line, keyvault.QueueHost) // or it would get a part of the messages
	}), "")
	c.create("probe")
	configs := make(map[string]string, rotations)
	for n := range rotations {
		configs[fmt.Sprint(n)] = fmt.Sprintf("%s::sqlserver-%d", devmode.VaultURL, n)
	}
	probe := c.client(nil, c.replicas[0])
	value := func(cl *client.Client, n int, id string) string {
		res, err := cl.Resolve(t.Context(), client.ResolveRequest{IntegrationID: id, Configs: map[string]string{"p": configs[fmt.Sprint(n)]}, MaxAge: new(time.Duration)})
		if err != nil {
			return ""
		}
		return res.Values["p"].Reveal()
	}
	notices := make([]chan time.Time, len(c.replicas))
	for i, replica := range c.replicas {
		cl := c.client(nil, replica)
		c.await("the replica has the integration", func() bool { return value(cl, rotations-1, "rotated") != "" })
		stream, err := secretbrokerv1.NewWatchServiceClient(dialBroker(t, replica.addr, c.CAFile, c.Worker)).Watch(t.Context(), &secretbrokerv1.WatchRequest{
			Sets: []*secretbrokerv1.WatchSet{{IntegrationId: "rotated", Configs: configs}}})
		if err != nil {
			t.Fatal(err)
		}
		for complete := false; !complete; {
			m, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			complete = m.GetComplete()
		}
		notices[i] = make(chan time.Time, rotations)
		go func() {
			for {
				m, err := stream.Recv()
				if err != nil {
					return
				}
				for range m.GetNotices() {
					notices[i] <- time.Now()
				}
			}
		}()
	}
	delays := make([][]time.Duration, len(c.replicas))
	for n := range rotations {
		old := fmt.Sprintf("'value %d'", n)
		if err := edit(c.SecretsFile, old, "'another'"); err != nil {
			t.Fatal(err)
		}
		c.await("the store has the new value", func() bool { return value(probe, n, "probe") == "another" })
		began := time.Now()
		queue.SendEvent(provider.Event{Store: devmode.VaultURL, Name: fmt.Sprintf("sqlserver-%d", n), Type: "changed"})
		for i := range notices {
			select {
			case at := <-notices[i]:
				delays[i] = append(delays[i], at.Sub(began))
			case <-time.After(30 * time.Second):
				t.Fatalf("rotation %d: no notice of replica %d", n, i)
			}
		}
	}
	for i, what := range []string{"the replica that receives the event", "the other replica"} {
		slices.Sort(delays[i])
		t.Logf("%s: p50 %v, p99 %v", what, delays[i][rotations/2].Round(100*time.Microsecond), delays[i][rotations*99/100].Round(100*time.Microsecond))
	}
}

// TestValidateEvents: validation reports that replicas without a common database need queues
// of their own, that a source cannot be opened, and nothing for an integration without one.
func TestValidateEvents(t *testing.T) {
	queue := eventstest.NewQueue()
	e := &eventing{openers: map[secret.Kind]provider.EventOpener{secret.KindAzureKeyVault: queue.Opener()}}
	validate := e.validating(func(context.Context, *integration.Integration) []provider.Step {
		return []provider.Step{{Step: provider.StepCredential}}
	})
	in := &integration.Integration{ID: "it", Kind: secret.KindAzureKeyVault, Settings: eventSettings{eventQueue}}
	steps := validate(t.Context(), in)
	if len(steps) != 3 || steps[1].Err != nil || steps[1].Step != provider.StepEvents || !steps[2].Unchecked || !strings.Contains(steps[2].Found, "each replica needs a queue of its own") {
		t.Errorf("%+v", steps)
	}
	e.shared = true
	if steps := validate(t.Context(), in); len(steps) != 2 {
		t.Errorf("%+v", steps)
	}
	if s := queue.Stats(); s.Opened != 2 || s.Closed != 2 || s.Receives != 0 {
		t.Errorf("%+v", s)
	}
	e.openers[in.Kind] = func(context.Context, *integration.Integration) (provider.EventSource, error) { panic("a bug") }
	if steps := validate(t.Context(), in); len(steps) != 2 || steps[1].Err == nil {
		t.Errorf("%+v", steps)
	}
	in.Settings = eventSettings{}
	if steps := validate(t.Context(), in); len(steps) != 1 {
		t.Errorf("%+v", steps)
	}
}

// eventSettings are settings with a source of events.
type eventSettings struct{ source string }

func (s eventSettings) StoreNames() []string        { return nil }
func (s eventSettings) List() []integration.Setting { return nil }
func (s eventSettings) Facts() integration.Facts    { return integration.Facts{} }
func (s eventSettings) EventSource() string         { return s.source }
