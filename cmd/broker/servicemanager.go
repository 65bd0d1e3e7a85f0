package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// serviceManager tells systemd, where that has started the broker as
// Type=notify or notify-reload, how the broker is. Elsewhere it does nothing.
type serviceManager struct{ log *slog.Logger }

func (s serviceManager) tell(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		s.log.Warn("the service manager could not be told", "error", err)
	}
}

func (s serviceManager) ready()    { s.tell(daemon.SdNotifyReady) }
func (s serviceManager) stopping() { s.tell(daemon.SdNotifyStopping) }

// reloading has to be followed by ready.
func (s serviceManager) reloading() {
	s.tell(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
}

// watchdog says that the broker lives, twice in the time after which systemd
// would restart it (WatchdogSec), until ctx ends. alive goes before each time:
// should it hang, so does the broker.
func (s serviceManager) watchdog(ctx context.Context, alive func()) error {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		s.log.Warn("the service manager's watchdog is not served", "error", err)
		return nil
	}
	if every == 0 {
		return nil
	}
	tick := time.NewTicker(every / 2)
	defer tick.Stop()
	for {
		alive()
		s.tell(daemon.SdNotifyWatchdog)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
