package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/internal/app/internal/hangup"
	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/cache"
	"github.com/secretbroker/secretbroker/internal/config"
	"github.com/secretbroker/secretbroker/internal/cpulimit"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/manage"
	"github.com/secretbroker/secretbroker/internal/placement"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/replica"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/server"
)

func newServeCommand() *cobra.Command {
	var (
		configFile string
		logs       logFlags
	)
	cmd := &cobra.Command{
		Use:   "serve --config secretbroker.yaml",
		Short: "Run the broker",
		Long: `Run the broker until it receives SIGINT or SIGTERM.

On the first signal, the broker reports not ready on /readyz and in its health
service, keeps answering for shutdown.drain_delay, and then waits up to
shutdown.timeout for calls in progress. A second signal ends the process at once.

The broker reads integrations again when their files change. SIGHUP makes it read
them at once, reopen the audit log (for log rotation) and read secretbroker.yaml again:
changes of roles, shutdown, CRLs and the limits on calls take effect. The log and /readyz
list other changes, which need a restart.`,
		Example: "  secretbroker serve --config /etc/secretbroker/secretbroker.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// Neither an early SIGHUP nor a closed pipe of the audit log must end the
			// process. Writes to a closed pipe fail instead, and so do the calls.
			hangups, stop := hangup.Notify()
			defer stop()
			signal.Ignore(syscall.SIGPIPE)
			ignoreFileSizeSignal()
			log, err := logs.logger(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			cfg, err := config.Load(configFile)
			if err != nil {
				return &exitError{Code: exitUsage, Err: err}
			}
			if err := harden(cfg, log); err != nil {
				return err
			}
			limitMemory(cfg, log)
			cpulimit.AddProcessor()
			return serve(cmd.Context(), cfg, log, process{
				hangups: hangups,
				reload:  func() (*config.Config, error) { return config.Load(configFile) },
			})
		},
	}
	cmd.Flags().StringVar(&configFile, "config", "", "the broker's configuration file (required)")
	_ = cmd.MarkFlagRequired("config") // the flag exists
	_ = cmd.MarkFlagFilename("config", "yaml", "yml")
	logs.register(cmd)
	return cmd
}

// listening has the addresses and the metrics of a broker that is ready.
type listening struct {
	addr, adminAddr net.Addr
	metrics         *prometheus.Registry
}

// process connects a broker to the process that runs it. The zero process does nothing.
type process struct {
	// hangups requests a reload with each element.
	hangups <-chan os.Signal
	// reload reads secretbroker.yaml again. It is required with hangups.
	reload func() (*config.Config, error)
	// eventOpeners, if not nil, replace the openers of sources of events.
	eventOpeners map[secret.Kind]provider.EventOpener
	// onReady, if not nil, is called when the broker is ready.
	onReady func(listening)
}

// serve wires the broker: it builds every part from the configuration, runs the parts until
// ctx ends, and closes them in reverse order.
func serve(ctx context.Context, cfg *config.Config, log *slog.Logger, proc process) (err error) {
	// Security settings that are incomplete make the start fail.
	identity, identityRules, err := openTrust(ctx, cfg, log)
	if err != nil {
		return err
	}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m := newMetrics(metrics)
	memory := newBudgets(cfg)
	m.watchMemory(memory)
	m.watchTrust(identity)

	auditLog, err := openAudit(cfg.Audit, log)
	if err != nil {
		return err
	}
	defer closing(&err, func() error { return closeAudit(auditLog, log) })
	records := audit.NewLimiter(auditLog)
	m.watchAudit(auditLog, records, cfg.Audit.Copies)

	// net/http logs unsolicited data from a store to the standard logger. It may be a
	// part of a secret. No other part of the broker uses that logger.
	stdlog.SetOutput(io.Discard) //nolint:forbidigo // not to log

	traces, err := openTracing(cfg.Tracing, m, log)
	if err != nil {
		return err
	}
	defer closing(&err, traces.close)

	versionKey, err := openVersionKey(cfg.Watch)
	if err != nil {
		return &exitError{Code: exitUsage, Err: err}
	}
	var resolver *resolve.Resolver
	stores := provider.NewSet(provider.SetConfig{
		// Leases exist only after calls, and calls after the resolver.
		Openers: kinds.Openers(provider.Config{Logger: log, Lost: func(in *integration.Integration, ref secret.Ref, version string) {
			resolver.Lost(in, ref, version)
		}}),
		Keeps:   kinds.Keeps,
		Observe: observeRead(m),
		Reserve: memory.reserveRead,
		Logger:  log,
	})
	defer closing(&err, stores.Close)
	m.watchStores(stores)

	denials, err := openDenials(cfg, log)
	if err != nil {
		return err
	}
	m.watchDenials(denials)

	receiver, err := newEventing(cfg, m, proc.eventOpeners, log)
	if err != nil {
		return err
	}
	others := &replicas{}
	hub := newHub(cfg.Watch, m, others, receiver.Changed)
	values, err := cache.New(cache.Config{MaxBytes: int64(cfg.Cache.MaxBytes), Loaded: hub.Loaded, Superseded: others.superseded, Logger: log})
	if err != nil {
		return &exitError{Code: exitFailure, Err: err}
	}
	defer values.Close()
	m.watchCache(values)

	var revisions readRevisions
	integrations, err := openIntegrations(ctx, cfg, log, denials.fromDatabase, func(removed, changed []*integration.Integration) {
		for _, in := range removed {
			stores.Remove(in.ID)
		}
		for _, in := range changed {
			stores.Supersede(in.ID, in.ReadRevision)
			stores.Keep(in)
		}
		values.Revise(revisions.changed(removed, changed))
		hub.IntegrationsChanged(removed, changed)
		receiver.IntegrationsChanged()
	})
	if err != nil {
		return err
	}
	defer closing(&err, integrations.close)
	all := integrations.List()
	revisions.start(all)
	for _, in := range all {
		stores.Keep(in)
	}
	m.watchIntegrations(integrations)
	if versionKey == nil {
		if versionKey, err = shareVersionKey(ctx, integrations, log); err != nil {
			return &exitError{Code: exitFailure, Err: err}
		}
	}
	stores.SetVersionKey(versionKey)
	scheme := versionScheme(versionKey)
	if lag := m.watchReplicas(others); integrations.replicas != nil {
		c := replica.Config{Table: integrations.replicas, Name: replicaName(cfg.Listen), Scheme: scheme, ServesFor: time.Duration(cfg.Registry.MaxOutage), Lag: lag, Logger: log}
		if err := others.start(ctx, c, integrations, values, hub, receiver); err != nil {
			return &exitError{Code: exitFailure, Err: fmt.Errorf("registry: the tables that replicas share: %w", err)}
		}
	}
	uses, outdated := m.newUses(integrations, replicaName(cfg.Listen), log)

	places, err := placement.New(cfg.Placement.Rules())
	if err != nil {
		return &exitError{Code: exitUsage, Err: fmt.Errorf("placement: %w", err)}
	}
	settings, err := config.NewLive(cfg, proc.reload, log)
	if err != nil {
		return &exitError{Code: exitUsage, Err: err}
	}
	resolver = resolve.New(resolve.Config{
		Admit:        places.Admit,
		Integrations: others.leased(integrations),
		Stores:       stores,
		Cache:        values,
		Audit:        records,
		CacheTTL:     time.Duration(cfg.Cache.TTL),
		Peek:         stores.Peek,
		Unresponsive: stores.Unresponsive,
		Limits: resolve.Limits{
			MaxConfigs:        cfg.Limits.MaxConfigs,
			MaxReferences:     cfg.Limits.MaxReferences,
			MaxSecrets:        cfg.Limits.MaxSecrets,
			MaxReferenceBytes: cfg.Limits.MaxReferenceBytes,
			MaxKeyBytes:       cfg.Limits.MaxKeyBytes,
			MaxDocumentBytes:  int(cfg.Limits.MaxDocumentBytes),
		},
		Observe: m.config,
		Used:    uses.Used,
		Seen:    uses.Seen,

		Hub:              hub,
		Versions:         kinds.All().Versions,
		MayWatch:         mayWatch(settings.Roles),
		Replicas:         others.shared(),
		VersionScheme:    scheme,
		ComputesVersions: versionKey != nil,
	})
	hub.SetReader(resolver)
	receiver.use(others.leased(integrations), hub, values, others, resolver)
	management := manage.New(manage.Config{
		Store:         integrations,
		Kinds:         kinds.All(),
		Usage:         integrations.usage,
		NoteUsage:     uses.Flush,
		UsageInMemory: watchingNow(hub, uses.InMemory),
		Audit:         records,
		Roles:         settings.Roles,
		Denials:       denials.Set,
		DenialStore:   integrations.denials,
		Placement:     places,
		Validate:      receiver.validating(stores.Validate),
		Events:        receiver.of,
		UsageWindow:   time.Duration(cfg.Usage.Window),
		Logger:        log,
	})
	working := manage.NewWatcher(management, manage.WatchConfig{AtStart: cfg.Validation.AtStart, Every: time.Duration(cfg.Validation.Every)})
	m.watchValidation(working)
	grpcServer, err := server.New(server.Config{
		Resolver: resolver,
		Manager:  management,
		Watcher:  resolver,
		Trust:    identity,
		Identity: identityRules,
		Denials:  denials.Set,
		Version:  buildVersion(),
		Logger:   log,
		Metrics:  metrics,
		Limits: server.Limits{
			MaxRequestBytes:            int(cfg.Limits.MaxRequestBytes),
			MaxStreamsPerConnection:    cfg.Limits.MaxStreamsPerConnection,
			MaxConnectionsPerPrincipal: cfg.Limits.MaxConnectionsPerPrincipal,
			MaxHandshakes:              cfg.Limits.MaxHandshakes,
			Calls:                      callLimits(cfg),
			Watch:                      server.WatchLimits{MaxStreamsPerPrincipal: cfg.Watch.MaxStreamsPerPrincipal, MaxStreams: cfg.Watch.MaxStreams},
		},
		Memory: memory.calls, WatchMemory: memory.watches,
		Tracer: traces.tracer,
	})
	if err != nil {
		return &exitError{Code: exitFailure, Err: err}
	}
	settings.OnChange = func(c *config.Config) error {
		if err := identity.SetCRLs(c.TLS.CRLFiles, c.TLS.CRLDir); err != nil {
			return err
		}
		grpcServer.SetCallLimits(callLimits(c))
		return nil
	}
	settings.Applied = hub.DecisionsChanged // with the new roles
	readiness := &server.Readiness{Refuses: func() bool { return integrations.refuses() || others.refuses() || auditLog.Refuses() }, Problems: func() []server.Problem {
		ps := problems(identity, denials, integrations, places, auditLog, settings, working)
		return append(append(ps, others.problems()...), receiver.problems()...)
	}}
	admin := server.NewAdmin(readiness, metrics)

	listener, err := server.Listen(ctx, cfg.Listen)
	if err != nil {
		return &exitError{Code: exitFailure, Err: fmt.Errorf("listen for gRPC: %w", err)}
	}
	adminListener, err := net.Listen("tcp", cfg.AdminListen)
	if err != nil {
		_ = listener.Close()
		return &exitError{Code: exitFailure, Err: fmt.Errorf("listen for the admin endpoint: %w", err)}
	}

	// All parts run until the last call is answered. If one fails, all of them end.
	parts := newGroup(context.WithoutCancel(ctx))
	manager := serviceManager{log}
	parts.run("gRPC server", func(context.Context) error { return grpcServer.Serve(listener) })
	parts.run("admin server", func(context.Context) error {
		if err := admin.Serve(adminListener); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	parts.run("tls", identity.Run)
	parts.run("denials", denials.run)
	parts.run("watch", hub.Run)
	parts.run("events", receiver.Run)
	parts.run("watchers", func(ctx context.Context) error { return noteWatchers(ctx, hub, integrations, uses) })
	parts.run("validation", working.Run)
	parts.run("integrations", integrations.Run)
	parts.run("replicas", others.run)
	parts.run("restores", func(ctx context.Context) error { return integrations.watchRestores(ctx, auditLog) })
	parts.run("usage", uses.Run)
	parts.run("usage database", integrations.runUsage)
	parts.run("outdated uses", outdated.run)
	parts.run("tracing", traces.run)
	parts.run("signals", func(ctx context.Context) error {
		return onHangup(ctx, log, proc.hangups, manager, []reload{
			{"tls", func() error { identity.Reload(); return nil }}, // logs its own errors
			{"denials", denials.reload},
			{"integrations", integrations.reload},
			{"audit log", auditLog.Reopen},
			{"configuration", settings.Reload},
		})
	})
	parts.run("audit refusals", records.Run)
	parts.run("audit heads", func(ctx context.Context) error { return logHeads(ctx, log, auditLog) })
	// The checks of /readyz take the locks of all parts, so they detect a deadlock.
	parts.run("watchdog", func(ctx context.Context) error { return manager.watchdog(ctx, func() { readiness.Problems() }) })

	readiness.Set(true)
	manager.ready()
	log.Info("ready", "listen", listener.Addr().String(), "admin_listen", adminListener.Addr().String(),
		"integrations", len(integrations.List()))
	if proc.onReady != nil {
		proc.onReady(listening{listener.Addr(), adminListener.Addr(), metrics})
	}

	select {
	case <-ctx.Done():
	case <-parts.ctx.Done():
	}
	// Report not ready first, so that load balancers have time to send new calls to
	// other brokers before this one refuses them.
	readiness.Set(false)
	receiver.Drain()
	grpcServer.Drain()
	manager.stopping()
	ending := settings.Current().Shutdown
	log.Info("shutting down", "drain_delay", ending.DrainDelay.String(), "timeout", ending.Timeout.String())
	wait(parts.ctx, time.Duration(ending.DrainDelay))
	log.Info("refusing new calls")
	finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Duration(ending.Timeout))
	defer cancel()
	grpcServer.Shutdown(finish)
	parts.stop()
	_ = admin.Shutdown(finish) // a scrape at this moment may fail
	return parts.wait()
}
