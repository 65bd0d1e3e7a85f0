package server

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/manage"
)

// TestUsageMessage: each field of an entry is in its message.
func TestUsageMessage(t *testing.T) {
	at := time.Date(2027, 1, 10, 12, 0, 0, 0, time.UTC)
	e := manage.UsageEntry{CurrentVersion: "v3", State: manage.VersionOutdated, Attribution: manage.ByConnector}
	e.Integration, e.UID, e.Principal, e.Connector, e.Store, e.Secret, e.Key, e.GrantID = "i", "not told", "p", "c", "st", "s", "k", "g"
	e.Version, e.FirstAt, e.LastAt = "v2", at, at.Add(4)
	e.Versions = []manage.VersionUse{
		{Version: "v2", FirstAt: at.Add(2), LastAt: at.Add(4), RequestID: "r", Sequence: 1 << 60, Replica: "b"},
		{Version: "v1", LastAt: at.Add(1)},
	}
	want := &secretbrokerv1.Usage{
		IntegrationId: "i", Principal: "p", Connector: "c", Store: "st", Secret: "s", JsonKey: "k", GrantId: "g", Version: "v2",
		FirstUseTime: timestamppb.New(at), LastUseTime: timestamppb.New(at.Add(4)),
		CurrentVersion: "v3", State: secretbrokerv1.VersionState_VERSION_STATE_OUTDATED, Attribution: secretbrokerv1.UsageAttribution_USAGE_ATTRIBUTION_CONNECTOR,
		Versions: []*secretbrokerv1.VersionUse{
			{Version: "v2", FirstUseTime: timestamppb.New(at.Add(2)), LastUseTime: timestamppb.New(at.Add(4)), RequestId: "r", AuditSequence: 1 << 60, Replica: "b"},
			{Version: "v1", LastUseTime: timestamppb.New(at.Add(1))},
		},
	}
	if diff := cmp.Diff(want, usageMessage(&e), protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, s := range []manage.VersionState{manage.VersionUnknown, manage.VersionCurrent, manage.VersionOutdated} {
		for _, a := range []manage.Attribution{manage.ByConnector, manage.ByPrincipal} {
			m := usageMessage(&manage.UsageEntry{State: s, Attribution: a})
			if m.GetState().String() != "VERSION_STATE_"+string(s) || m.GetAttribution().String() != "USAGE_ATTRIBUTION_"+string(a) {
				t.Errorf("%s, %s: %v", s, a, m)
			}
		}
	}
}
