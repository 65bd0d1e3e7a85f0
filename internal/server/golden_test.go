package server

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
)

var update = flag.Bool("update", false, "rewrite the golden files of the wire format; only add to them")

// wireSamples are messages in which every field is set.
func wireSamples() map[string]proto.Message {
	at := func(seconds int64) *timestamppb.Timestamp { return &timestamppb.Timestamp{Seconds: seconds, Nanos: 5} }
	failure := &secretbrokerv1.ConfigError{Reason: "STORE_THROTTLED", Message: "wait", RetryDelay: durationpb.New(time.Second)}
	failed := statusOf(&resolve.Failure{Configs: []resolve.ConfigError{
		{Config: "database.password", Err: secret.Errorf(secret.ReasonSecretNotFound, "no such secret")},
		{Config: "database.user", Err: secret.Errorf(secret.ReasonStoreThrottled, "wait")},
	}}, "0123456789abcdef0123456789abcdef")
	throttled := statusOf(secret.Errorf(secret.ReasonStoreThrottled, "wait"), "0123456789abcdef0123456789abcdef")
	samples := integrationSamples()
	maps.Copy(samples, map[string]proto.Message{
		"resolve_request": &secretbrokerv1.ResolveRequest{
			IntegrationId: "cspi-sqlserver", MaxAge: durationpb.New(0), NotReadBefore: at(1), AllowPartial: true, Connector: "SqlServerCdcSource1",
			Configs: map[string]string{"database.password": "https://my-vault.vault.azure.net::sqlserver-db-secret::password"},
		},
		"resolve_response": &secretbrokerv1.ResolveResponse{
			RequestId: "0123456789abcdef0123456789abcdef",
			Configs: map[string]*secretbrokerv1.ResolvedConfig{"database.password": {
				Value: "text", Version: "v1", FetchTime: at(1), CacheExpireTime: at(2), Stale: true, DecodedValue: []byte{0xff, 0},
				SecretExpireTime: at(3), TimeLeft: durationpb.New(time.Hour),
			}},
			Errors: map[string]*secretbrokerv1.ConfigError{"database.user": failure},
		},
		"check_request": &secretbrokerv1.CheckRequest{
			IntegrationId: "cspi-sqlserver", MaxAge: durationpb.New(time.Minute), NotReadBefore: at(1), Connector: "SqlServerCdcSource1",
			Configs: map[string]string{"database.password": "https://my-vault.vault.azure.net::sqlserver-db-secret::password"},
		},
		"watch_request": &secretbrokerv1.WatchRequest{Sets: []*secretbrokerv1.WatchSet{{
			IntegrationId: "cspi-sqlserver", Connector: "SqlServerCdcSource1",
			Configs:       map[string]string{"database.password": "https://my-vault.vault.azure.net::sqlserver-db-secret::password"},
			KnownVersions: map[string]string{"database.password": "v1"},
		}}},
		"watch_response": &secretbrokerv1.WatchResponse{
			Complete: true, AsOfTime: at(4), ReconnectAfter: durationpb.New(time.Second), RequestId: "0123456789abcdef0123456789abcdef",
			Notices: []*secretbrokerv1.Notice{{
				Set: 1, Config: "database.password", State: secretbrokerv1.Notice_STATE_CHANGED, Version: "v2",
				FetchTime: at(1), SecretExpireTime: at(3), Error: failure, Generated: true,
			}},
		},
		"refresh_request": &secretbrokerv1.RefreshRequest{
			IntegrationId: "cspi-sqlserver", Connector: "SqlServerCdcSource1",
			Configs: map[string]string{"database.password": "https://my-vault.vault.azure.net::sqlserver-db-secret::password"},
		},
		"refresh_response": &secretbrokerv1.RefreshResponse{
			Coverage: secretbrokerv1.RefreshResponse_COVERAGE_SOME_REPLICAS, RequestId: "0123456789abcdef0123456789abcdef",
			Unacknowledged: []*secretbrokerv1.Replica{{Id: "0011223344556677", Name: "secretbroker-2", LastSeenTime: at(4)}},
			Configs: map[string]*secretbrokerv1.RefreshedConfig{"database.password": {
				Version: "v2", FetchTime: at(1), SecretExpireTime: at(3), Error: failure,
			}},
		},
		"check_response": &secretbrokerv1.CheckResponse{
			Ok: true, RequestId: "0123456789abcdef0123456789abcdef",
			Configs: map[string]*secretbrokerv1.ConfigReport{"database.password": {
				Store: "https://my-vault.vault.azure.net", Secret: "sqlserver-db-secret", Version: "v1", JsonKey: "password", JsonKeyFound: true,
				FetchTime: at(1), SecretExpireTime: at(3), TimeLeft: durationpb.New(time.Hour),
				LengthClass: secretbrokerv1.LengthClass_LENGTH_CLASS_SHORT, Error: failure,
				Warnings: []*secretbrokerv1.ConfigWarning{{Warning: "NOT_UTF8", Message: "store it in UTF-8"}},
			}},
		},
		"explain_request": &secretbrokerv1.ExplainRequest{
			Reference: "https://my-vault.vault.azure.net::sqlserver-db-secret", IntegrationId: "cspi-sqlserver", Principal: "spiffe://example.org/connect/worker-1",
			PageSize: 500, PageToken: "a page",
		},
		"explain_response": &secretbrokerv1.ExplainResponse{
			Reference: "https://my-vault.vault.azure.net::sqlserver-db-secret", RequestId: "0123456789abcdef0123456789abcdef", NextPageToken: "the next page",
			Readers: []*secretbrokerv1.Access{{IntegrationId: "cspi-sqlserver", GrantId: "connect-workers", Principal: "spiffe://example.org/connect/*"}},
			Decisions: []*secretbrokerv1.Decision{{
				IntegrationId: "cspi-sqlserver", Allowed: true, GrantId: "connect-workers", Explanation: "grant connect-workers allows it",
				Grants: []*secretbrokerv1.GrantMatch{{GrantId: "connect-workers", PrincipalMatches: true, StoreMatches: true, SecretMatches: true, KeyMatches: true}},
			}},
		},
		"status_of_failing_configs": failed.Proto(),
		"status_of_a_failing_call":  throttled.Proto(),
	})
	return samples
}

// TestWireIsStable compares the encodings of the messages, binary and JSON, with the golden
// files: older clients must understand newer brokers, and the other way round.
func TestWireIsStable(t *testing.T) {
	for name, msg := range wireSamples() {
		t.Run(name, func(t *testing.T) {
			binary, err := proto.MarshalOptions{Deterministic: true}.Marshal(msg)
			if err != nil {
				t.Fatal(err)
			}
			text, err := protojson.Marshal(msg)
			if err != nil {
				t.Fatal(err)
			}
			var indented bytes.Buffer
			if err := json.Indent(&indented, text, "", "  "); err != nil { // protojson's spacing is not stable
				t.Fatal(err)
			}
			golden(t, name+".hex", hex.Dump(binary))
			golden(t, name+".json", indented.String()+"\n")
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", "wire", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs: the wire format has changed\n got: %s\nwant: %s", name, got, want)
	}
}

// TestWireSamplesAreComplete: the samples contain every message of the API, with every
// field set.
func TestWireSamplesAreComplete(t *testing.T) {
	seen := make(map[protoreflect.FullName]bool)
	var walk func(m protoreflect.Message)
	walk = func(m protoreflect.Message) {
		seen[m.Descriptor().FullName()] = true
		fields := m.Descriptor().Fields()
		for i := range fields.Len() {
			f := fields.Get(i)
			if !m.Has(f) {
				if strings.HasPrefix(string(f.FullName()), "secretbroker.") {
					t.Errorf("%s is not set in any sample", f.FullName())
				}
				continue
			}
			switch {
			case f.IsMap() && f.MapValue().Message() != nil:
				m.Get(f).Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool { walk(v.Message()); return true })
			case f.IsList() && f.Message() != nil:
				for j := range m.Get(f).List().Len() {
					walk(m.Get(f).List().Get(j).Message())
				}
			case f.Message() != nil && !f.IsMap():
				walk(m.Get(f).Message())
			}
		}
	}
	for _, msg := range wireSamples() {
		walk(msg.ProtoReflect())
	}
	protoregistry.GlobalTypes.RangeMessages(func(mt protoreflect.MessageType) bool {
		name := mt.Descriptor().FullName()
		if strings.HasPrefix(string(name), "secretbroker.v1.") && !seen[name] && !mt.Descriptor().IsMapEntry() {
			t.Errorf("no sample contains %s", name)
		}
		return true
	})
}
