package app

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/secretbroker/secretbroker/internal/config"
	"github.com/secretbroker/secretbroker/internal/denial"
)

// denyList is the deny list in effect and its file.
type denyList struct {
	*denial.Set
	file *denial.File // nil without a file
}

// openDenials reads the deny file. The database's part of the list follows when the
// integrations are opened, before the broker serves its first call.
func openDenials(cfg *config.Config, log *slog.Logger) (*denyList, error) {
	d := &denyList{Set: denial.NewSet()}
	if cfg.Denials.File == "" {
		return d, nil
	}
	file, err := denial.OpenFile(denial.FileConfig{Path: cfg.Denials.File, Set: d.Set, Logger: log})
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			log.Error("denials.file does not exist; for an empty deny list, write a file with the line: denials: []", "file", cfg.Denials.File)
		}
		return nil, &exitError{Code: exitUsage, Err: err}
	}
	d.file = file
	return d, nil
}

func (d *denyList) fromDatabase(l *denial.List) { d.Put(denial.FromDatabase, l) }

func (d *denyList) run(ctx context.Context) error {
	if d.file == nil {
		<-ctx.Done()
		return nil
	}
	return d.file.Run(ctx)
}

func (d *denyList) reload() error {
	if d.file == nil {
		return nil
	}
	return d.file.Check()
}

func (d *denyList) problem() string {
	if d.file == nil {
		return ""
	}
	return d.file.Problem()
}

// watchDenials exports the size of the list and the failed reads of the file.
func (m *metrics) watchDenials(d *denyList) {
	for _, source := range []denial.Source{denial.FromFile, denial.FromDatabase} {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "secretbroker_denials",
			Help:        "Entries of the deny list by source, including those that have expired and have not been removed.",
			ConstLabels: prometheus.Labels{"source": string(source)},
		}, func() float64 { return float64(d.Count(source)) }))
	}
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "secretbroker_denials_reload_failures_total",
		Help: "Failed attempts to read the deny file; the last valid list remains in effect.",
	}, func() float64 {
		if d.file == nil {
			return 0
		}
		return float64(d.file.Failures())
	}))
}
