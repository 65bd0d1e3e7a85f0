package vaultkv

import (
	"context"
	"slices"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// checkMount refuses a path below a mount that may lead to a part of the server
// itself. A server takes leading segments of a path for namespaces: if the
// integration's "mount" team is a namespace, then team/auth/token/lookup-self is
// the token that the integration is logged in with. A secret may have such a name,
// though, so for these names alone the server is asked whether the mount is one.
// What it does not confirm is not read.
//
// An engine kv2 is read below MOUNT/data, and an answer of another form is refused,
// so nothing of the server can pass for one of its secrets.
func (s *store) checkMount(ctx context.Context, mount Mount, path string) error {
	if mount.Engine == KV2 || !secret.VaultSystemPath(path) {
		return nil
	}
	// Any token may ask this about a mount below which it may read anything. It is
	// not documented, but Vault's and OpenBao's own user interfaces and "vault kv"
	// depend on it.
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

// mayHold reports whether a mount of that type can be one of the engine.
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
		"the secret's path has a segment sys, auth, identity or cubbyhole, and the server does not confirm that what stands before it is a secrets engine; list the mount in vault.mounts, and set vault.namespace for a mount in a namespace")
}
