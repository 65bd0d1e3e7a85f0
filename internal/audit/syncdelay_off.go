//go:build !syncdelay

package audit

// delaySync does nothing; see syncdelay_on.go.
func delaySync() {}
