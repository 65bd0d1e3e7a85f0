package client

import (
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// knownFields are the fields of an integration that a change may name and that this version
// of the package knows. The API's "*" also means fields of newer brokers, which a change
// would remove, so the client never sends it. Settings are sent as they were received.
var knownFields = []string{
	"display_name", "settings", "cache.ttl", "cache.max_stale",
	"reads.max_concurrent", "reads.per_second", "reads.timeout",
	"placement.cloud", "placement.region", "grants", "roles",
}

// maskOf returns the mask to send. It returns an error if the change would remove parts of
// the integration that this version cannot send.
func maskOf(in *Integration, mask []string) ([]string, error) {
	switch {
	case slices.Contains(mask, "*"):
		mask = knownFields
	case len(mask) == 0:
		mask = setFields(in)
	}
	for _, path := range mask {
		if slices.Contains(in.Unknown, path) {
			return nil, &Error{Code: codes.FailedPrecondition, Reason: ReasonInvalidRequest, Message: fmt.Sprintf(
				"%s of the integration %s has a field or a value that this version of the client does not know, and the change would remove it; make the change with a newer version", path, in.ID)}
		}
	}
	return mask, nil
}

// setFields lists the fields of in that are not zero.
func setFields(in *Integration) []string {
	set := map[string]bool{
		"display_name":         in.DisplayName != "",
		"settings":             len(in.Settings) > 0,
		"cache.ttl":            in.CacheTTL != 0,
		"cache.max_stale":      in.CacheMaxStale != 0,
		"reads.max_concurrent": in.Reads.MaxConcurrent != 0,
		"reads.per_second":     in.Reads.PerSecond != 0,
		"reads.timeout":        in.Reads.Timeout != 0,
		"placement.cloud":      in.Placement.Cloud != "",
		"placement.region":     in.Placement.Region != "",
		"grants":               len(in.Grants) > 0,
		"roles":                len(in.Roles) > 0,
	}
	return slices.DeleteFunc(slices.Clone(knownFields), func(path string) bool { return !set[path] })
}

// unknownIn lists the parts of m, as a mask names them, in which there is something that
// this version does not know.
func unknownIn(m *secretbrokerv1.Integration) []string {
	var unknown []string
	add := func(part string, parts ...proto.Message) {
		if slices.ContainsFunc(parts, func(p proto.Message) bool { return len(p.ProtoReflect().GetUnknown()) > 0 }) && !slices.Contains(unknown, part) {
			unknown = append(unknown, part)
		}
	}
	add("cache", m.GetCache())
	add("reads", m.GetReads())
	add("placement", m.GetPlacement())
	for _, g := range m.GetGrants() {
		add("grants", g)
	}
	for _, b := range m.GetRoles() {
		add("roles", b)
		if !slices.ContainsFunc(wireRoles, func(r wireRole) bool { return r.wire == b.GetRole() }) && !slices.Contains(unknown, "roles") {
			unknown = append(unknown, "roles")
		}
	}
	return unknown
}
