package vaultkv

import (
	"bytes"
	"encoding/json"
	"strconv"
	"time"

	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// unversioned is the version of a secret that has no versions.
const unversioned = "unversioned"

// kv2Data is the "data" member of a response of the KV version 2 engine.
type kv2Data struct {
	Data     json.RawMessage `json:"data"`
	Metadata struct {
		Version      int64  `json:"version"`
		DeletionTime string `json:"deletion_time"`
		Destroyed    bool   `json:"destroyed"`
	} `json:"metadata"`
}

// kv2 converts a response of the KV version 2 engine to a secret. version is the
// version that the request asked for, "" for the current one. The response does not
// name the secret. kv2 refuses a response with another version.
func (a *answer) kv2(host, version string, now time.Time) (*secret.Secret, error) {
	var d kv2Data
	if err := json.Unmarshal(a.Data, &d); err != nil || d.Metadata.Version < 1 || a.wrapped() {
		return nil, unexpectedResponse(host, "not a response of a KV version 2 engine; check the mount's engine in vault.mounts")
	}
	defer clear(d.Data)
	if err := d.gone(host, now); err != nil {
		return nil, err
	}
	got := strconv.FormatInt(d.Metadata.Version, 10)
	if !isObject(d.Data) || version != "" && version != got {
		return nil, unexpectedResponse(host, "the response is for another secret")
	}
	expires, _ := time.Parse(time.RFC3339Nano, d.Metadata.DeletionTime) // zero if there is none
	return secret.New(got, a.began, expires, bytes.Clone(d.Data)), nil
}

// gone returns the reason why a version cannot be used, nil if there is none. A
// version whose deletion is scheduled for the future can be used.
func (d *kv2Data) gone(host string, now time.Time) error {
	deleted, err := time.Parse(time.RFC3339Nano, d.Metadata.DeletionTime)
	switch {
	case d.Metadata.Destroyed:
		return secret.Errorf(secret.ReasonSecretDisabled, "the secret's version in Vault %s has been destroyed; write a new one", host)
	case d.Metadata.DeletionTime != "" && (err != nil || !now.Before(deleted)):
		return secret.Errorf(secret.ReasonSecretDisabled, "the secret's version in Vault %s has been deleted; undelete it, or write a new one", host)
	default:
		return nil
	}
}

// kv1 converts a response of the KV version 1 engine to a secret. The lease of the
// response limits the secret's life only if the secret has a ttl field; otherwise the
// engine returns a default that means nothing.
func (a *answer) kv1(host string) (*secret.Secret, error) {
	if !isObject(a.Data) || a.LeaseID != "" || a.wrapped() {
		return nil, unexpectedResponse(host, "not a response of a KV version 1 engine; check the mount's engine in vault.mounts")
	}
	var d kv2Data
	if json.Unmarshal(a.Data, &d) == nil && d.Metadata.Version > 0 {
		clear(d.Data)
		return nil, unexpectedResponse(host, "a response of a KV version 2 engine; set the mount's engine to kv2 and leave out data/ in the path")
	}
	var hint struct {
		TTL   json.RawMessage `json:"ttl"`
		Lease json.RawMessage `json:"lease"`
	}
	expires := time.Time{}
	if json.Unmarshal(a.Data, &hint) == nil && (hint.TTL != nil || hint.Lease != nil) && a.LeaseDuration > 0 {
		expires = a.began.Add(seconds(a.LeaseDuration))
	}
	return secret.New(unversioned, a.began, expires, bytes.Clone(a.Data)), nil
}

// dynamic converts a credential that an engine has generated to a secret. The secret
// expires with its lease, or with the token that requested it if that is earlier.
func (a *answer) dynamic(host string, ses *session) (*secret.Secret, error) {
	if !isObject(a.Data) || a.wrapped() {
		return nil, unexpectedResponse(host, "not a response of a secrets engine")
	}
	version := storeerror.Plain(a.RequestID)
	if rotated, err := time.Parse(time.RFC3339Nano, a.static().Rotated); a.LeaseID == "" && err == nil {
		version = "rotated-" + rotated.UTC().Format(time.RFC3339Nano)
	}
	if version == "" {
		version = unversioned
	}
	return secret.New(version, a.began, a.ends(ses), bytes.Clone(a.Data)), nil
}

// static is what the engine says of the password of a static role. It is the same password
// until the next rotation.
type static struct {
	TTL     int64  `json:"ttl"`
	Rotated string `json:"last_vault_rotation"` // a time
}

// static returns the zero static for any other response.
func (a *answer) static() (s static) {
	if json.Unmarshal(a.Data, &s) != nil {
		return static{}
	}
	return s
}

// ends returns until when a credential can be used: until a little before the end of
// its lease or of the token. A static role has no lease; its credential can be used
// until the next rotation.
func (a *answer) ends(ses *session) time.Time {
	d := seconds(a.LeaseDuration)
	if a.LeaseID == "" {
		d = seconds(a.static().TTL)
	}
	end := time.Time{}
	if d > 0 {
		end = a.began.Add(d - margin(d))
	}
	if t := ses.ends(); a.LeaseID != "" && !t.IsZero() && (end.IsZero() || t.Before(end)) {
		end = t
	}
	return end
}

// margin returns how long before its end the broker stops using a lease or token of
// duration d.
func margin(d time.Duration) time.Duration { return min(d/10, time.Minute) }

// wrapped reports whether the response is a wrapping token. The client never requests
// one.
func (a *answer) wrapped() bool { return isObject(a.WrapInfo) }

// seconds converts n to a duration and limits it, because a server may send any
// value.
func seconds(n int64) time.Duration {
	return time.Duration(min(max(n, 0), 100*365*24*3600)) * time.Second
}
