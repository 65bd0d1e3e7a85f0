package vaultkv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// missing is the state of a secret that does not exist.
const missing = "missing"

// pollDenials has the mounts for which a refused poll was logged.
type pollDenials struct {
	mu     sync.Mutex
	mounts []string
}

// add reports whether the mount was not there yet.
func (d *pollDenials) add(mount string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if slices.Contains(d.mounts, mount) {
		return false
	}
	d.mounts = append(d.mounts, mount)
	return true
}

// Peek implements provider.Peeker, with the metadata of a KV version 2 secret. The response
// has no value. Of the metadata, Peek decodes only what it needs; the fields that people
// add to a secret are overwritten with the response.
func (s *store) Peek(ctx context.Context, ref secret.Ref) (string, error) {
	mount, path, ok := s.mountOf(ref.Name)
	if ref.Store != s.vault.Address || !ok || s.vault.PollInterval(ref) == 0 {
		return "", secret.Errorf(secret.ReasonInternal, "the secret is not polled").WithCause(fmt.Errorf("%w: %w", provider.ErrCannotPeek, storeerror.ErrAnswered))
	}
	a, _, err := s.get(ctx, mount.Path+"/metadata/"+path, "")
	var status *statusError
	switch {
	case errors.As(err, &status) && status.status == http.StatusNotFound:
		return missing, nil
	case isDenied(err):
		if s.denied.add(mount.Path) {
			s.cfg.Logger.WarnContext(ctx, "Vault does not permit to poll the versions of secrets; they are read once per time-to-live", "mount", mount.Path,
				"advice", "grant the capability read on metadata/ of the mount, or remove vault.events.poll")
		}
		return "", secret.Errorf(secret.ReasonStoreAccessDenied, "Vault %s denies the integration's identity access to the secret's metadata", s.host).
			WithCause(fmt.Errorf("%w: %w", provider.ErrCannotPeek, storeerror.NameDenied(err)))
	case err != nil:
		return "", explainRead(ctx, s.host, err)
	}
	defer a.wipe()
	return a.current(s.host, s.now())
}

// kv2Metadata is the part of a secret's metadata that Peek needs.
type kv2Metadata struct {
	Current  int64 `json:"current_version"`
	Versions map[string]struct {
		DeletionTime string `json:"deletion_time"`
		Destroyed    bool   `json:"destroyed"`
	} `json:"versions"`
}

// current returns the current version, followed by "gone" if it cannot be read.
func (a *answer) current(host string, now time.Time) (string, error) {
	var m kv2Metadata
	if err := json.Unmarshal(a.Data, &m); err != nil || m.Current < 0 || a.wrapped() {
		return "", unexpectedResponse(host, "not the metadata of a KV version 2 secret")
	}
	number := strconv.FormatInt(m.Current, 10)
	v, ok := m.Versions[number]
	if m.Current == 0 || !ok {
		return number + " gone", nil
	}
	var d kv2Data
	d.Metadata.DeletionTime, d.Metadata.Destroyed = v.DeletionTime, v.Destroyed
	if d.gone(host, now) != nil {
		return number + " gone", nil
	}
	return number, nil
}
