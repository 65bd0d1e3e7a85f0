// Package hangup keeps a SIGHUP that arrives while the broker starts from ending
// the process.
//
// Go ends a process on SIGHUP until somebody asks to be notified, and main runs
// only after the initialization of all packages, which takes tens of milliseconds.
// Packages are initialized as soon as their imports are, in the order of their
// paths, so that one with few imports comes early. This one therefore imports only
// what it needs for the signal; do not add to it.
package hangup

import (
	"os"
	"os/signal"
	"syscall"
)

// signals keeps one SIGHUP until it is received. More than one ask for the same
// thing: to reload.
var signals = make(chan os.Signal, 1)

// The call is what this package is for: it happens when packages are initialized.
var _ = notifyEarly(os.Args)

func notifyEarly(args []string) bool {
	if !serves(args) {
		return false
	}
	signal.Notify(signals, syscall.SIGHUP)
	return true
}

// serves reports whether the command line runs a broker. All other commands end
// on SIGHUP, as is usual when the terminal is closed.
func serves(args []string) bool { return len(args) > 1 && args[1] == "serve" }

// Notify returns the channel on which SIGHUP arrives, including one that arrived
// before the call. Each call returns the same channel. stop makes SIGHUP do again
// what it does by default.
func Notify() (hangups <-chan os.Signal, stop func()) {
	signal.Notify(signals, syscall.SIGHUP)
	return signals, func() { signal.Stop(signals) }
}
