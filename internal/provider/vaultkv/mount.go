package vaultkv

import (
	"context"
	"slices"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// checkMount refuses a path below a mount that may lead to a part of the server
// itself. A server interprets the first segments of a path as namespaces: if the
// integration's mount "team" is in fact a namespace, then team/auth/token/lookup-self
// returns the token that the integration is logged in with. A secret may legitimately
// have such a name, so for these names, and only for these, checkMount asks the
// server whether the mount exists. It refuses the path unless the server confirms the
// mount.
//
// The engine kv2 is not affected: its secrets are read below MOUNT/data, and a
// response of another form is refused, so no response of the server itself can pass
// for a secret.
func (s *store) checkMount(ctx context.Context, mount Mount, path string) error {
	if mount.Engine == KV2 || !secret.VaultSystemPath(path) {
		return nil
	}
	// Every token may send this request for a mount below which it may read anything.
	// The endpoint is not documented, but the user interfaces of Vault and OpenBao
	// and "vault kv" depend on it.
	_, err := s.read(ctx, "sys/internal/ui/mounts/"+mount.Path, "", func(a *answer, _ *session) (*secret.Secret, error) {
		var about struct {
			Path string `json:"path"`
			Type string `json:"type"`
		}
		if !jsonObject(a.Data, &about) || about.Path != mount.Path+"/" || !mayHold(mount.Engine, about.Type) {
			return nil, notAMount()
		}
		return nil, nil //nolint:nilnil // there is nothing to read here
	})
	if e := secret.AsError(err); err != nil && e.Reason == secret.ReasonStoreAccessDenied || err != nil && e.Reason == secret.ReasonSecretNotFound {
		return notAMount().WithCause(err)
	}
	return err
}

// mayHold reports whether a mount of the type mounted can be the engine.
func mayHold(engine Engine, mounted string) bool {
	if engine == KV1 {
		return mounted == "kv" || mounted == "generic"
	}
	return mounted != "" && !slices.Contains([]string{
		"system", "token", "identity", "cubbyhole", "ns_system", "ns_token", "ns_identity", "ns_cubbyhole",
	}, mounted)
}

func notAMount() *secret.Error {
	return secret.Errorf(secret.ReasonStoreNotAllowed,
		"the secret's path has a segment sys, auth, identity or cubbyhole, and the server does not confirm that the path before it is a secrets engine; list the mount in vault.mounts, and set vault.namespace for a mount in a namespace")
}
