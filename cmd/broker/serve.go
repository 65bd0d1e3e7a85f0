package main

import (
	"context"
	"errors"
	"fmt"
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

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/cache"
	"github.com/secretbroker/secretbroker/internal/config"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/azurekv"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/server"
)

// drainTime is how long calls under way may take to finish at shutdown.
const drainTime = 15 * time.Second

func newServeCommand() *cobra.Command {
	var (
		configFile string
		logs       logFlags
	)
	cmd := &cobra.Command{
		Use:   "serve --config broker.yaml",
		Short: "Run the broker",
		Long: `Run the broker until it is told to stop (SIGINT, SIGTERM).

Integrations are read again when their files change. SIGHUP reads them at once
and opens the audit log anew, for log rotation.`,
		Example: "  broker serve --config /etc/secretbroker/broker.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logs.logger(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			cfg, err := config.Load(configFile)
			if err != nil {
				return &exitError{exitUsage, err}
			}
			// From here on a SIGHUP must not end the process, nor a closed pipe of
			// the audit log: writing to it fails instead, and so do the calls.
			hangups := make(chan os.Signal, 1)
			signal.Notify(hangups, syscall.SIGHUP)
			defer signal.Stop(hangups)
			signal.Ignore(syscall.SIGPIPE)
			return serve(cmd.Context(), cfg, log, hangups, nil)
		},
	}
	cmd.Flags().StringVar(&configFile, "config", "", "the broker's configuration file (required)")
	_ = cmd.MarkFlagRequired("config") // the flag exists
	_ = cmd.MarkFlagFilename("config", "yaml", "yml")
	logs.register(cmd)
	return cmd
}

// listening is where a broker that has become ready answers.
type listening struct {
	addr, adminAddr net.Addr
}

// serve is the whole wiring: it builds every part from the configuration, runs
// them until ctx ends, and takes them down in reverse order. Each of hangups,
// which may be nil, reads files anew. onReady, if not nil, is called once the
// broker answers.
func serve(ctx context.Context, cfg *config.Config, log *slog.Logger, hangups <-chan os.Signal, onReady func(listening)) (err error) {
	// Whatever is security refuses to start when it is half there.
	tlsConfig, err := server.LoadTLS(cfg.TLS.CertFile, cfg.TLS.KeyFile, cfg.TLS.ClientCAFile)
	if err != nil {
		return &exitError{exitUsage, err}
	}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m := newMetrics(metrics)

	auditLog, err := audit.Open(cfg.Audit.File)
	if err != nil {
		return &exitError{exitFailure, err}
	}
	defer closing(&err, auditLog.Close)

	stores := provider.NewSet(provider.SetConfig{
		Openers: map[secret.Kind]provider.Opener{
			secret.KindAzureKeyVault: azurekv.Opener(azurekv.Config{Logger: log}),
		},
		Observe: m.storeRead,
	})
	defer closing(&err, stores.Close)

	values, err := cache.New(cache.Config{MaxBytes: int64(cfg.Cache.MaxBytes), Logger: log})
	if err != nil {
		return &exitError{exitFailure, err}
	}
	defer values.Close()
	m.watchCache(values)

	integrations, err := registry.Open(registry.FilesConfig{
		Dir:    cfg.Integrations,
		Logger: log,
		OnChange: func(removed, changed []*registry.Integration) {
			for _, in := range removed {
				stores.Remove(in.ID)
			}
			for _, in := range changed {
				stores.Supersede(in.ID, in.Revision)
			}
		},
	})
	if err != nil {
		return &exitError{exitUsage, err}
	}
	m.watchIntegrations(integrations)

	resolver := resolve.New(resolve.Config{
		Integrations: integrations,
		Stores:       stores,
		Cache:        values,
		Audit:        auditLog,
		CacheTTL:     time.Duration(cfg.Cache.TTL),
		Limits: resolve.Limits{
			MaxConfigs:        cfg.Limits.MaxConfigs,
			MaxReferences:     cfg.Limits.MaxReferences,
			MaxSecrets:        cfg.Limits.MaxSecrets,
			MaxReferenceBytes: cfg.Limits.MaxReferenceBytes,
			MaxKeyBytes:       cfg.Limits.MaxKeyBytes,
			MaxDocumentBytes:  int(cfg.Limits.MaxDocumentBytes),
		},
		Observe: m.configResolved,
	})
	auditors, err := authz.NewPrincipals(cfg.Roles.Auditor)
	if err != nil {
		return &exitError{exitUsage, fmt.Errorf("roles.auditor: %w", err)}
	}
	grpcServer, err := server.New(server.Config{
		Resolver:  resolver,
		Explainer: resolver,
		IsAuditor: auditors.Contains,
		TLS:       tlsConfig,
		Logger:    log,
		Metrics:   metrics,
		Limits: server.Limits{
			MaxRequestBytes:            int(cfg.Limits.MaxRequestBytes),
			MaxStreamsPerConnection:    cfg.Limits.MaxStreamsPerConnection,
			MaxConnectionsPerPrincipal: cfg.Limits.MaxConnectionsPerPrincipal,
		},
	})
	if err != nil {
		return &exitError{exitFailure, err}
	}
	readiness := &server.Readiness{Problems: func() []server.Problem { return problems(integrations, auditLog) }}
	admin := server.NewAdmin(readiness, metrics)

	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return &exitError{exitFailure, fmt.Errorf("listen for gRPC: %w", err)}
	}
	adminListener, err := net.Listen("tcp", cfg.AdminListen)
	if err != nil {
		_ = listener.Close()
		return &exitError{exitFailure, fmt.Errorf("listen for the admin endpoint: %w", err)}
	}

	// Each part runs until ctx ends; the first one that fails ends it for all.
	parts := newGroup(ctx)
	parts.run("gRPC server", func(context.Context) error { return grpcServer.Serve(listener) })
	parts.run("admin server", func(context.Context) error {
		if err := admin.Serve(adminListener); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	parts.run("integrations", integrations.Run)
	parts.run("signals", func(ctx context.Context) error { return onHangup(ctx, log, hangups, integrations, auditLog) })

	readiness.Set(true)
	log.Info("ready", "listen", listener.Addr().String(), "admin_listen", adminListener.Addr().String(),
		"integrations", len(integrations.List()))
	if onReady != nil {
		onReady(listening{listener.Addr(), adminListener.Addr()})
	}

	<-parts.ctx.Done()
	readiness.Set(false)
	log.Info("shutting down")
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	grpcServer.Shutdown(drain)
	_ = admin.Shutdown(drain) // whoever scrapes us now can do without
	return parts.wait()
}

// onHangup reads the integrations again and opens the audit log anew at each
// hangup.
func onHangup(ctx context.Context, log *slog.Logger, hangups <-chan os.Signal, integrations *registry.Files, auditLog *audit.Log) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hangups:
			integrations.Reload()
			if err := auditLog.Reopen(); err != nil {
				log.Error("the audit log could not be opened anew; the old file stays in use", "error", err)
			}
		}
	}
}

// problems lists what /readyz should tell an operator.
func problems(integrations *registry.Files, auditLog *audit.Log) []server.Problem {
	var ps []server.Problem
	for _, f := range integrations.Faults() {
		ps = append(ps, server.Problem{Component: "integrations", Text: f.Faults.Error()})
	}
	if text := auditLog.Problem(); text != "" {
		ps = append(ps, server.Problem{Component: "audit", Text: text})
	}
	return ps
}

// closing runs a deferred close and keeps its error if there is none yet.
func closing(err *error, closeIt func() error) {
	if e := closeIt(); e != nil && *err == nil {
		*err = e
	}
}
