package audit

import "slices"

// maxWatchedSecrets is the maximum number of secrets that one record names.
const maxWatchedSecrets = 100

// WatchedSet is what a caller watches through one integration since a Watched record.
type WatchedSet struct {
	// Configs is the number of configs.
	Configs int `json:"configs"`
	// Secrets are the references of their secrets without JSON keys, sorted. If there are
	// many, Omitted is the number of those that are missing.
	Secrets []string `json:"secrets"`
	Omitted int      `json:"omitted,omitempty"`
}

// NewWatchedSet returns the WatchedSet of configs that refer to secrets. It keeps secrets.
func NewWatchedSet(configs int, secrets []string) *WatchedSet {
	slices.Sort(secrets)
	w := &WatchedSet{Configs: configs, Secrets: slices.Compact(secrets)}
	if n := len(w.Secrets) - maxWatchedSecrets; n > 0 {
		w.Secrets, w.Omitted = w.Secrets[:maxWatchedSecrets], n
	}
	return w
}
