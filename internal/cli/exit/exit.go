// Package exit defines the exit codes of all commands.
package exit

import "fmt"

// The exit codes are a stable interface for scripts. The resolve command uses all of them.
const (
	OK           = iota
	Failure      // any other failure
	Usage        // the command line or a configuration file is invalid
	Denied       // the caller has no grant, or no valid identity
	BadReference // a reference or the request is malformed
	NotFound     // no such secret, version or JSON key
	Precondition // the secret or the integration is not in a usable state
	Unreachable  // no trusted broker answers at the address
	TryLater     // the broker or the store asks the caller to wait
	Findings     // the command did its work, and there is something to look at: differences, warnings, a broken log
)

// Error is an error with its exit code. A nil Err means that the command has already
// printed the error.
type Error struct {
	Code int
	Err  error
}

func (e *Error) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit code %d", e.Code)
	}
	return e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }
