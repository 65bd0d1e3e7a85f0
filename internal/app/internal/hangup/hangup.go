// Package hangup prevents a SIGHUP that arrives during the start of the broker from
// ending the process.
//
// Go ends a process on SIGHUP until signal.Notify is called, and main runs only after
// the initialization of all packages, which takes tens of milliseconds.
// Packages are initialized as soon as their imports are, in the order of their
// paths, so a package with few imports comes early. This package therefore imports only
// what the signal needs; do not add imports.
package hangup

import (
	"os"
	"os/signal"
	"syscall"
)

// signals buffers one SIGHUP. Further ones can be dropped, because all of them request the
// same reload.
var signals = make(chan os.Signal, 1)

// This call during package initialization is the purpose of the package.
var _ = notifyEarly(os.Args)

func notifyEarly(args []string) bool {
	if !serves(args) {
		return false
	}
	signal.Notify(signals, syscall.SIGHUP)
	return true
}

// serves reports whether the command line runs a broker. All other commands end on SIGHUP,
// as usual when a terminal is closed.
func serves(args []string) bool { return len(args) > 1 && args[1] == "serve" }

// Notify returns the channel on which SIGHUP arrives, including one that arrived
// before the call. Each call returns the same channel. stop restores the default
// behaviour of SIGHUP.
func Notify() (hangups <-chan os.Signal, stop func()) {
	signal.Notify(signals, syscall.SIGHUP)
	return signals, func() { signal.Stop(signals) }
}
