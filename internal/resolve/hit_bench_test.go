package resolve_test

import (
	"context"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/cache"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/replica"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// barrier waits once for 64 calls, like a connection that writes their answers
// together.
type barrier struct {
	mu   sync.Mutex
	held int
}

func (b *barrier) HoldUntil(commit resolve.Commit) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.held++; b.held%64 == 0 {
		_ = commit.Wait() // writes to io.Discard do not fail
	}
}

// newBenchmark returns a Resolver with one integration whose secrets stay in its cache.
func newBenchmark(b *testing.B, store *fakeStore, used func(registry.Read), wrap ...func(resolve.Integrations) resolve.Integrations) (*resolve.Resolver, resolve.Caller) {
	b.Helper()
	policy, err := authz.NewPolicy(secret.KindAzureKeyVault, []string{vault}, []authz.Grant{
		{ID: strings.Repeat("ab", 16), Principals: []string{"spiffe://example.org/connect/*"}, Secrets: []string{"db-*"}},
	})
	if err != nil {
		b.Fatal(err)
	}
	values, err := cache.New(cache.Config{MaxBytes: 256 << 20, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(values.Close)
	log := audit.New(io.Discard)
	b.Cleanup(func() { _ = log.Close() })
	revision := strings.Repeat("1", 16)
	var all resolve.Integrations = integrations{"cspi": {ID: "cspi", Revision: revision, ReadRevision: revision, Kind: secret.KindAzureKeyVault, Policy: policy}}
	for _, w := range wrap {
		all = w(all)
	}
	return resolve.New(resolve.Config{
		Integrations: all,
		Stores:       store, Cache: values, Audit: log, CacheTTL: 24 * time.Hour, Used: used,
	}), resolve.Caller{Principal: worker, PeerAddress: "192.0.2.1:41234", CertificateSHA256: strings.Repeat("ab", 32), CertificateSerial: strings.Repeat("ab", 16), Barrier: &barrier{}}
}

// noTable is the table of a replica that is alone.
type noTable struct{ replica.Table }

func (noTable) Changes(context.Context, int64) (replica.Changes, error) {
	return replica.Changes{}, nil
}

func (noTable) RenewLease(context.Context, replica.Lease, time.Duration, time.Duration) error {
	return nil
}

// leased are the integrations of a replica that shares a database: it answers only while it
// has a lease, as in package app.
type leased struct {
	resolve.Integrations
	tracker *replica.Tracker
}

func (l leased) Get(id string) (*integration.Integration, error) {
	if l.tracker.Detached() {
		return nil, registry.ErrUnavailable
	}
	return l.Integrations.Get(id)
}

// BenchmarkResolveHit measures a call of two configs that is answered from the cache,
// including the audit log's writer, without and with other replicas. The result is cpu-ns/op:
// the CPU time of all threads.
func BenchmarkResolveHit(b *testing.B) {
	b.Run("alone", func(b *testing.B) { benchmarkHit(b) })
	b.Run("leased", func(b *testing.B) {
		tracker := replica.New(replica.Config{Table: noTable{}, ServesFor: time.Hour})
		if err := tracker.Start(b.Context()); err != nil {
			b.Fatal(err)
		}
		benchmarkHit(b, func(of resolve.Integrations) resolve.Integrations { return leased{of, tracker} })
	})
}

func benchmarkHit(b *testing.B, wrap ...func(resolve.Integrations) resolve.Integrations) {
	r, who := newBenchmark(b, &fakeStore{secrets: map[string]string{"db-secret": `{"user":"dbadmin","password":"p4ssw0rd","port":1433}`}}, nil, wrap...)
	var failed atomic.Int64
	b.ReportAllocs()
	b.SetParallelism(32 / runtime.GOMAXPROCS(0) * 4)
	before := cpuTime()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			res, err := r.Resolve(b.Context(), who, resolve.Request{
				ID: "0123456789abcdef0123456789abcdef", IntegrationID: "cspi", Connector: "orders-sink",
				Configs: map[string]string{
					"connection.user":     vault + "::db-secret::user",
					"connection.password": vault + "::db-secret::password",
				},
			})
			if err != nil {
				failed.Add(1)
				continue
			}
			res.Wipe()
		}
	})
	b.ReportMetric(float64(cpuTime()-before)/float64(b.N), "cpu-ns/op")
	if failed.Load() > 0 {
		b.Errorf("%d calls failed", failed.Load())
	}
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // cannot fail
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
