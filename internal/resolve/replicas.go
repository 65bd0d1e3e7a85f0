package resolve

import (
	"context"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/replica"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Replicas shares with the other replicas of the broker which versions this one has seen;
// replica.Tracker implements it.
type Replicas interface {
	// Saw is called at the end of each read whose version means the same on all replicas.
	// It must not block.
	Saw(k replica.Key, scheme, version string)
	// SawNone is called instead if the secret does not exist or is disabled.
	SawNone(k replica.Key, scheme string)
	// Confirm waits until all replicas have dropped reads that began before these.
	Confirm(ctx context.Context, reads []replica.Read) replica.Coverage
}

// schemeOf returns the scheme of a secret's versions, or replica.SchemeNone if they mean
// nothing to another replica: a generated credential is that of this replica, and a file or
// an environment variable that of this machine.
func (r *Resolver) schemeOf(in *integration.Integration, ref secret.Ref) string {
	versions, _ := r.cfg.Versions(in, ref)
	return r.scheme(in, versions)
}

func (r *Resolver) scheme(in *integration.Integration, versions secret.Versions) string {
	switch {
	case versions == secret.StoreVersions:
		return ""
	case versions == secret.NoVersions && in.Kind != secret.KindLocalFile && r.cfg.VersionScheme != "":
		return r.cfg.VersionScheme
	default:
		return replica.SchemeNone
	}
}

func replicaKey(in *integration.Integration, ref *secret.Ref) replica.Key {
	return replica.Key{Integration: in.ID, Store: in.CanonicalStore(ref.Store), Name: ref.Name, Version: ref.Version}
}

// saw notes the outcome of a read. That no secret has the suffix of a reference says nothing
// about the secret that other references mean.
func (r *Resolver) saw(in *integration.Integration, ref secret.Ref, s *secret.Secret, err error) {
	if r.cfg.Replicas == nil {
		return
	}
	scheme := r.schemeOf(in, ref)
	switch {
	case scheme == replica.SchemeNone:
	case err == nil:
		r.cfg.Replicas.Saw(replicaKey(in, &ref), scheme, s.Version)
	case ref.Suffix == "" && isGone(err):
		r.cfg.Replicas.SawNone(replicaKey(in, &ref), scheme)
	}
}

// isGone reports whether an error says that a secret cannot be read by any replica.
func isGone(err error) bool {
	reason := secret.AsError(err).Reason
	return reason == secret.ReasonSecretNotFound || reason == secret.ReasonSecretDisabled
}

// seen notes for the records of usage which version a secret has.
func (r *Resolver) seen(in *integration.Integration, ref secret.Ref, s *secret.Secret) {
	if r.cfg.Seen == nil || ref.Version != "" {
		return
	}
	if versions, _ := r.cfg.Versions(in, ref); versions == secret.GeneratedVersions || versions == secret.NoVersions && !r.cfg.ComputesVersions {
		return
	}
	r.cfg.Seen(registry.Seen{Integration: in.ID, UID: in.UID, Store: in.CanonicalStore(ref.Store), Secret: ref.Name, Version: s.Version, ReadAt: s.FetchedAt})
}

// confirm makes the other replicas drop what they read before a refresh.
func (r *Resolver) confirm(ctx context.Context, in *integration.Integration, configs []refreshing) replica.Coverage {
	if r.cfg.Replicas == nil {
		return replica.Coverage{State: replica.ThisReplica}
	}
	var reads []replica.Read
	for i := range configs {
		c := &configs[i]
		if c.err != nil {
			continue
		}
		read := replica.Read{Key: replicaKey(in, &c.ref), Scheme: r.schemeOf(in, c.ref), Version: c.load.Version, Began: c.load.ReadAt, Ended: c.ended}
		if read.Scheme == replica.SchemeNone {
			read.Version = ""
		}
		reads = append(reads, read)
	}
	return r.cfg.Replicas.Confirm(ctx, reads)
}
