package server

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// withUnknown returns m with a field that the broker does not know.
func withUnknown[M proto.Message](m M, number protowire.Number) M {
	b := protowire.AppendTag(nil, number, protowire.VarintType)
	m.ProtoReflect().SetUnknown(protowire.AppendVarint(b, 1))
	return m
}

func TestUnknownFields(t *testing.T) {
	grant := func() *secretbrokerv1.Grant {
		return &secretbrokerv1.Grant{Principals: []string{"spiffe://example.org/a"}}
	}
	for name, test := range map[string]struct {
		req  proto.Message
		want secret.Reason
	}{
		"below the range":           {withUnknown(&secretbrokerv1.ResolveRequest{}, 999), ""},
		"first of the range":        {withUnknown(&secretbrokerv1.ExplainRequest{}, 1000), secret.ReasonInvalidRequest},
		"last of the range":         {withUnknown(&secretbrokerv1.ResolveRequest{}, 1999), secret.ReasonInvalidRequest},
		"above the range":           {withUnknown(&secretbrokerv1.ResolveRequest{}, 2000), ""},
		"check":                     {withUnknown(&secretbrokerv1.CheckRequest{}, 1500), secret.ReasonInvalidRequest},
		"explain":                   {withUnknown(&secretbrokerv1.ExplainRequest{}, 1500), secret.ReasonInvalidRequest},
		"a field of a create":       {withUnknown(&secretbrokerv1.CreateIntegrationRequest{}, 9), ""},
		"a restriction of a delete": {withUnknown(&secretbrokerv1.DeleteIntegrationRequest{}, 1001), secret.ReasonInvalidRequest},
		"integration": {
			&secretbrokerv1.CreateIntegrationRequest{Integration: withUnknown(&secretbrokerv1.Integration{}, 99)}, secret.ReasonInvalidIntegration,
		},
		"part of an integration": {
			&secretbrokerv1.UpdateIntegrationRequest{Integration: &secretbrokerv1.Integration{Cache: withUnknown(&secretbrokerv1.IntegrationCache{}, 99)}},
			secret.ReasonInvalidIntegration,
		},
		"second grant of an integration": {
			&secretbrokerv1.UpdateIntegrationRequest{Integration: &secretbrokerv1.Integration{Grants: []*secretbrokerv1.Grant{grant(), withUnknown(grant(), 99)}}},
			secret.ReasonInvalidIntegration,
		},
		"grant":  {&secretbrokerv1.GrantUseRequest{Grant: withUnknown(grant(), 99)}, secret.ReasonInvalidIntegration},
		"revoke": {&secretbrokerv1.RevokeUseRequest{Grant: withUnknown(grant(), 99)}, secret.ReasonInvalidIntegration},
		"denial": {&secretbrokerv1.CreateDenialRequest{Denial: withUnknown(&secretbrokerv1.Denial{}, 99)}, secret.ReasonInvalidRequest},
		"subject of a denial": {
			&secretbrokerv1.CreateDenialRequest{Denial: &secretbrokerv1.Denial{Subject: withUnknown(&secretbrokerv1.DenialSubject{}, 99)}}, secret.ReasonInvalidRequest,
		},
		"nothing unknown": {&secretbrokerv1.CreateIntegrationRequest{Integration: &secretbrokerv1.Integration{
			Grants: []*secretbrokerv1.Grant{grant()}, Credentials: map[string][]byte{"a": {1}},
		}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := checkKnown(test.req)
			if (err != nil) != (test.want != "") || err != nil && secret.AsError(err).Reason != test.want {
				t.Errorf("got %v, want reason %q", err, test.want)
			}
		})
	}
}

// TestUnknownRestrictionOnTheWire: the codec for Resolve hands unknown fields on, and
// the use case is not reached.
func TestUnknownRestrictionOnTheWire(t *testing.T) {
	ts := startServer(t)
	conn := ts.dial(t, ts.ca.Client(string(granted)))
	req := &secretbrokerv1.ResolveRequest{IntegrationId: "i", Configs: map[string]string{"a": "b"}}
	if _, err := ask(t, conn, withUnknown(proto.CloneOf(req), 999)); err != nil {
		t.Errorf("field 999: %v", err)
	}
	_, err := ask(t, conn, withUnknown(req, 1234))
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(status.Convert(err).Message(), "field 1234") {
		t.Errorf("field 1234: %v", err)
	}
}
