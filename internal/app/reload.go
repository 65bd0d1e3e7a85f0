package app

import (
	"context"
	"log/slog"
	"os"
)

// reload is a reload that SIGHUP triggers. If it fails, the previous state remains in
// effect.
type reload struct {
	what string
	do   func() error
}

// onHangup runs all reloads at each SIGHUP.
func onHangup(ctx context.Context, log *slog.Logger, hangups <-chan os.Signal, manager serviceManager, reloads []reload) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hangups:
			manager.reloading()
			for _, r := range reloads {
				if err := r.do(); err != nil {
					log.Error("reload failed; the previous state remains in effect", "what", r.what, "error", err)
				}
			}
			log.Info("reloaded")
			manager.ready()
		}
	}
}
