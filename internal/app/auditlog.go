package app

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/audit/chain"
	"github.com/secretbroker/secretbroker/internal/audit/syslog"
	"github.com/secretbroker/secretbroker/internal/clienttls"
	"github.com/secretbroker/secretbroker/internal/config"
)

// headInterval is the interval at which the head of the audit log's chain is logged if
// there are new records. A head that is stored elsewhere later detects every change of a
// record up to it.
const headInterval = time.Minute

// openAudit opens the audit log and its copies as configured.
func openAudit(cfg config.Audit, log *slog.Logger) (*audit.Log, error) {
	c, err := auditConfig(cfg, log)
	if err != nil {
		return nil, &exitError{Code: exitUsage, Err: err}
	}
	l, err := audit.Open(c)
	if err != nil {
		return nil, &exitError{Code: exitFailure, Err: err}
	}
	return l, nil
}

// auditConfig reads the files that the settings name.
func auditConfig(cfg config.Audit, log *slog.Logger) (audit.Config, error) {
	c := audit.Config{Path: cfg.File, Sync: cfg.Sync == config.AuditSyncBatch, Logger: log}
	if cfg.KeyFile != "" {
		key, err := chain.ReadKey(cfg.KeyFile)
		if err != nil {
			return audit.Config{}, fmt.Errorf("audit.key_file: %w", err)
		}
		c.Key = key
	}
	for i, to := range cfg.Copies {
		collector, err := auditCopy(to, fmt.Sprintf("audit.copies[%d]", i), log)
		if err != nil {
			return audit.Config{}, err
		}
		c.Copies = append(c.Copies, syslog.Copy{Collector: collector, Required: to.Required})
	}
	return c, nil
}

// auditCopy reads the TLS files of a copy, whose settings are in section.
func auditCopy(cfg config.AuditCopy, section string, log *slog.Logger) (syslog.Collector, error) {
	s, err := syslog.Parse(cfg.Syslog)
	if err != nil {
		return s, fmt.Errorf("%s: %w", section, err)
	}
	if s.TLS == nil {
		return s, nil
	}
	s.Current, err = outgoingTLS(clienttls.Config{Section: section, CAFile: cfg.CAFile, CertFile: cfg.CertFile, KeyFile: cfg.KeyFile}, s.String(), log)
	return s, err
}

// logHeads logs the head of the audit log's chain every headInterval until ctx ends.
func logHeads(ctx context.Context, log *slog.Logger, l *audit.Log) error {
	ticker := time.NewTicker(headInterval)
	defer ticker.Stop()
	var last chain.Head
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			last = logHead(log, l, last)
		}
	}
}

// logHead logs the head if it is not last.
func logHead(log *slog.Logger, l *audit.Log, last chain.Head) chain.Head {
	head := l.Head()
	if head != last && head.Seq > 0 {
		log.Info("audit head", "head", head.String())
	}
	return head
}

// closeAudit closes the audit log, which writes its queue, and logs the last head.
func closeAudit(l *audit.Log, log *slog.Logger) error {
	err := l.Close()
	logHead(log, l, chain.Head{})
	return err
}
