//go:build !linux

package hardening

import "errors"

func forbidDumps() error { return errUnsupported }

func lockMemory() error {
	return errors.New("memory can be locked on Linux only; remove the setting")
}
