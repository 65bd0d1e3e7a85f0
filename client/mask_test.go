package client_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/secretbroker/secretbroker/client"
	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// The client never sends "*", and an update without a mask names the fields that are set.
func TestUpdateMask(t *testing.T) {
	s := newSetup(t, echo)
	c, _ := s.client(t)
	for _, tt := range []struct {
		name       string
		in         client.Integration
		mask, want []string
	}{
		{"everything", client.Integration{}, []string{"*"}, client.KnownFields},
		{"given", client.Integration{CacheTTL: 1, DisplayName: "n"}, []string{"cache.ttl"}, []string{"cache.ttl"}},
		{"fields that are set", client.Integration{DisplayName: "n", CacheTTL: 1, Reads: client.IntegrationReads{Timeout: time.Second}, Grants: []client.Grant{{}}}, nil, []string{"display_name", "cache.ttl", "reads.timeout", "grants"}},
		{"credentials only", client.Integration{Credentials: map[string][]byte{"a": {1}}}, nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := c.UpdateIntegration(t.Context(), client.UpdateIntegrationRequest{Integration: &tt.in, Mask: tt.mask}); err != nil {
				t.Fatal(err)
			}
			if got := s.manage.got.(*secretbrokerv1.UpdateIntegrationRequest).GetUpdateMask().GetPaths(); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// KnownFields has every field that can be changed. A new field of the API belongs there and
// into message, newIntegration, setFields and unknownIn, or into the list below.
func TestKnownFields(t *testing.T) {
	notInMasks := []string{
		"id", "kind", "credentials", "credential_names", "revision", "etag", "create_time", "update_time", "creator", "updater",
		"read_only", "facts", "last_use_time", "problems", "uid", "state", "usage_recording", "event_sources",
	}
	var want []string
	fields := (&secretbrokerv1.Integration{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		name := string(f.Name())
		switch {
		case slices.Contains(notInMasks, name):
		case f.IsList() || f.Message() == nil || f.Message().ParentFile().Package() != "secretbroker.v1":
			want = append(want, name)
		default:
			parts := f.Message().Fields()
			for j := range parts.Len() {
				want = append(want, name+"."+string(parts.Get(j).Name()))
			}
		}
	}
	if !slices.Equal(slices.Sorted(slices.Values(client.KnownFields)), slices.Sorted(slices.Values(want))) {
		t.Errorf("got %q, want %q", client.KnownFields, want)
	}
}

// A field or a role of a newer broker is reported in Unknown, and a change that would remove
// it is refused before it is sent.
func TestUpdateKeepsWhatItDoesNotKnow(t *testing.T) {
	newer := func(m proto.Message) {
		m.ProtoReflect().SetUnknown(protoreflect.RawFields(protowire.AppendVarint(protowire.AppendTag(nil, 900, protowire.VarintType), 1)))
	}
	s := newSetup(t, echo)
	c, _ := s.client(t)
	for _, tt := range []struct {
		part string
		in   *secretbrokerv1.Integration
	}{
		{"grants", &secretbrokerv1.Integration{Grants: []*secretbrokerv1.Grant{{}, {Secrets: []string{"s"}}}}},
		{"roles", &secretbrokerv1.Integration{Roles: []*secretbrokerv1.RoleBinding{{Role: secretbrokerv1.Role_ROLE_AUDITOR}}}},
		{"cache", &secretbrokerv1.Integration{Cache: &secretbrokerv1.IntegrationCache{}}},
		{"reads", &secretbrokerv1.Integration{Reads: &secretbrokerv1.IntegrationReads{}}},
		{"placement", &secretbrokerv1.Integration{Placement: &secretbrokerv1.Placement{}}},
		{"roles", &secretbrokerv1.Integration{Roles: []*secretbrokerv1.RoleBinding{{Role: 77}}}},
	} {
		switch {
		case len(tt.in.GetGrants()) > 0:
			newer(tt.in.GetGrants()[1])
		case len(tt.in.GetRoles()) > 0 && tt.in.GetRoles()[0].GetRole() != 77:
			newer(tt.in.GetRoles()[0])
		case tt.in.GetCache() != nil:
			newer(tt.in.GetCache())
		case tt.in.GetReads() != nil:
			newer(tt.in.GetReads())
		case tt.in.GetPlacement() != nil:
			newer(tt.in.GetPlacement())
		}
		s.manage.existing = tt.in
		got, err := c.GetIntegration(t.Context(), client.GetIntegrationRequest{IntegrationID: "i"})
		if err != nil {
			t.Fatal(err)
		}
		in := got.Integration
		if !slices.Equal(in.Unknown, []string{tt.part}) {
			t.Fatalf("%s: Unknown %q", tt.part, in.Unknown)
		}
		_, err = c.UpdateIntegration(t.Context(), client.UpdateIntegrationRequest{Integration: in, Mask: []string{tt.part}})
		var refused *client.Error
		if !errors.As(err, &refused) || refused.Reason != client.ReasonInvalidRequest || refused.RequestID != "" {
			t.Errorf("%s: %v", tt.part, err)
		}
		if _, isUpdate := s.manage.got.(*secretbrokerv1.UpdateIntegrationRequest); isUpdate {
			t.Errorf("%s: the update was sent", tt.part)
		}
		if _, err = c.UpdateIntegration(t.Context(), client.UpdateIntegrationRequest{Integration: in, Mask: []string{"display_name"}}); err != nil {
			t.Errorf("%s: another field: %v", tt.part, err)
		}
	}
}
