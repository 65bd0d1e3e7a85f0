package app

import (
	"context"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// serviceManager reports the state of the broker to systemd if that has started it with
// Type=notify or notify-reload. Otherwise it does nothing.
type serviceManager struct{ log *slog.Logger }

func (s serviceManager) notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		s.log.Warn("cannot notify the service manager", "error", err)
	}
}

func (s serviceManager) ready()    { s.notify(daemon.SdNotifyReady) }
func (s serviceManager) stopping() { s.notify(daemon.SdNotifyStopping) }

// reloading reports the start of a reload. The caller must call ready after it.
func (s serviceManager) reloading() {
	s.notify(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
}

// watchdog notifies systemd that the broker is alive, at half the interval after which
// systemd would restart it (WatchdogSec), until ctx ends. It calls alive before each
// notification, which hangs if the broker does.
func (s serviceManager) watchdog(ctx context.Context, alive func()) error {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		s.log.Warn("cannot read the settings of the service manager's watchdog", "error", err)
		return nil
	}
	if every == 0 {
		return nil
	}
	tick := time.NewTicker(every / 2)
	defer tick.Stop()
	for {
		alive()
		s.notify(daemon.SdNotifyWatchdog)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
