package server

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/admission"
	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/trust/trusttest"
)

func TestResolveOverTheWire(t *testing.T) {
	ts := startServer(t)
	cert := ts.ca.Client(string(granted))
	conn := ts.dial(t, cert)
	res, err := ask(t, conn, &secretbrokerv1.ResolveRequest{
		IntegrationId: "cspi", Configs: map[string]string{"p": "ref"}, MaxAge: durationpb.New(0), AllowPartial: true, Connector: "c1",
	})
	if err != nil {
		t.Fatal(err)
	}
	got := res.GetConfigs()["p"]
	if got.GetValue() != "the-value" || got.GetVersion() != "v1" || !got.GetStale() || !got.GetCacheExpireTime().AsTime().After(got.GetFetchTime().AsTime()) {
		t.Errorf("got %v", got)
	}
	if left := got.GetTimeLeft().AsDuration(); left <= 0 || left > time.Hour || !got.GetSecretExpireTime().AsTime().After(got.GetCacheExpireTime().AsTime()) {
		t.Errorf("the copy expires after %v, the secret at %v", left, got.GetSecretExpireTime().AsTime())
	}
	if e := res.GetErrors()["q"]; e.GetReason() != "STORE_THROTTLED" || e.GetRetryDelay().AsDuration() != time.Second {
		t.Errorf("got %v", e)
	}
	ts.resolver.mu.Lock()
	who, req := ts.resolver.who, ts.resolver.req
	_, hasDeadline := ts.resolver.ctx.Deadline()
	ts.resolver.mu.Unlock()
	if sum := sha256.Sum256(cert.Leaf.Raw); who.CertificateSHA256 != hex.EncodeToString(sum[:]) {
		t.Errorf("the caller's certificate is %s", who.CertificateSHA256)
	}
	if who.Principal != granted || who.CertificateSerial != cert.Leaf.SerialNumber.Text(16) || who.PeerAddress == "" {
		t.Errorf("caller %+v", who)
	}
	if req.ID != res.GetRequestId() || len(req.ID) != 32 || req.IntegrationID != "cspi" || req.MaxAge == nil || *req.MaxAge != 0 || !req.AllowPartial || req.Connector != "c1" || !hasDeadline {
		t.Errorf("request %+v", req)
	}
	if log := ts.log.String(); !strings.Contains(log, "cause for the log") || !strings.Contains(log, req.ID) || strings.Contains(log, "the-value") {
		t.Errorf("log: %s", log)
	}
}

func TestCheckOverTheWire(t *testing.T) {
	ts := startServer(t)
	res, err := secretbrokerv1.NewResolverServiceClient(ts.dial(t, ts.ca.Client(string(granted)))).
		Check(t.Context(), &secretbrokerv1.CheckRequest{IntegrationId: "cspi", Configs: map[string]string{"p": "ref"}})
	if err != nil {
		t.Fatal(err)
	}
	p, q := res.GetConfigs()["p"], res.GetConfigs()["q"]
	if res.GetOk() || res.GetRequestId() == "" || p.GetError() != nil || q.GetError().GetReason() != "STORE_THROTTLED" || q.GetError().GetRetryDelay() == nil {
		t.Errorf("got %v", res)
	}
	left := p.GetTimeLeft().AsDuration()
	if p.GetStore() != "https://abc.vault.azure.net" || p.GetSecret() != "n" || p.GetJsonKey() != "k" || !p.GetJsonKeyFound() || p.GetVersion() != "v1" ||
		p.GetLengthClass() != secretbrokerv1.LengthClass_LENGTH_CLASS_SHORT || left <= 0 || left > time.Hour || p.GetFetchTime() == nil || p.GetSecretExpireTime() == nil {
		t.Errorf("got %v", p)
	}
	if strings.Contains(res.String(), "the-value") {
		t.Errorf("a report contains the value: %v", res)
	}
}

func TestLengthClasses(t *testing.T) {
	for n, want := range map[int]string{
		-1: "UNSPECIFIED", 0: "EMPTY", 1: "TINY", 7: "TINY", 8: "SHORT", 63: "SHORT", 64: "MEDIUM", 1023: "MEDIUM", 1024: "LONG", 1 << 20: "LONG",
	} {
		if got := lengthClassOf(n).String(); got != "LENGTH_CLASS_"+want {
			t.Errorf("%d bytes are %s, want %s", n, got, want)
		}
	}
}

// TestDecodedBytes: decoded values arrive as bytes, and also as text if they are text.
func TestDecodedBytes(t *testing.T) {
	res := responseOf(&resolve.Result{Configs: []resolve.Resolved{
		{Config: "text", Decoded: true, Value: secret.NewValue([]byte("abc"))},
		{Config: "bytes", Decoded: true, Value: secret.NewValue([]byte{0xff, 0})},
		{Config: "plain", Value: secret.NewValue([]byte("abc"))},
	}}, "r", time.Now()).GetConfigs()
	for name, want := range map[string][2]string{"text": {"abc", "abc"}, "bytes": {"", "\xff\x00"}, "plain": {"abc", ""}} {
		if got := res[name]; got.SecretExpireTime != nil || got.TimeLeft != nil {
			t.Errorf("%s: a secret without an expiry has an expire time", name)
		}
		if got := res[name]; got.GetValue() != want[0] || string(got.GetDecodedValue()) != want[1] {
			t.Errorf("%s: %q, %q", name, got.GetValue(), got.GetDecodedValue())
		}
	}
}

// TestConnectionsPerPrincipal: a caller with too many connections gets an error that says
// so; with even more, its connections are refused. Other callers are not affected.
func TestConnectionsPerPrincipal(t *testing.T) {
	ts := startServer(t) // with a limit of 4
	cert := ts.ca.Client(string(granted))
	var conns []*grpc.ClientConn
	for i := range 9 {
		want := codes.OK
		switch {
		case i >= 8:
			want = codes.Unavailable
		case i >= 4:
			want = codes.ResourceExhausted
		}
		conn := ts.dial(t, cert)
		if _, err := ask(t, conn, &secretbrokerv1.ResolveRequest{}); status.Code(err) != want {
			t.Errorf("connection %d: %v, want %v", i+1, err, want)
		}
		conns = append(conns, conn)
	}
	if _, err := ask(t, ts.dial(t, ts.ca.Client("spiffe://example.org/other")), &secretbrokerv1.ResolveRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("another caller got %v", err)
	}
	for _, conn := range conns {
		conn.Close()
	}
	asynctest.Eventually(t, "closed connections make room for others", func() bool {
		conn := ts.dial(t, cert)
		defer conn.Close()
		_, err := ask(t, conn, &secretbrokerv1.ResolveRequest{})
		return err == nil
	})
}

// TestInvalidMaxAge: the use case refuses it, so that the refusal is recorded.
func TestInvalidMaxAge(t *testing.T) {
	for _, d := range []*durationpb.Duration{{Seconds: 1 << 60}, {Seconds: -1}, {Nanos: -1, Seconds: 1}} {
		if in := requestOf(&secretbrokerv1.ResolveRequest{MaxAge: d}, &call{}); in.MaxAge == nil || *in.MaxAge >= 0 {
			t.Errorf("%v became %v", d, in.MaxAge)
		}
	}
}

// TestErrorsReachSmallClients: grpc-java and grpc-core accept 8 KiB of headers.
func TestErrorsReachSmallClients(t *testing.T) {
	ts := startServer(t)
	ts.resolver.next = func(context.Context) (*resolve.Result, error) {
		f := &resolve.Failure{}
		for i := range 128 {
			f.Configs = append(f.Configs, resolve.ConfigError{
				Config: fmt.Sprintf("%03d%s", i, strings.Repeat("x", 253)),
				Err:    secret.Errorf(secret.ReasonAccessDenied, "%s", strings.Repeat("advice ", 30)),
			})
		}
		return nil, f
	}
	cert := ts.ca.Client(string(granted))
	conn, err := grpc.NewClient("passthrough:///"+ts.addr, grpc.WithMaxHeaderListSize(8<<10),
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: ts.ca.Pool(), Certificates: []tls.Certificate{*cert}})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := ask(t, conn, &secretbrokerv1.ResolveRequest{}); status.Code(err) != codes.PermissionDenied || len(status.Convert(err).Details()) != 3 {
		t.Errorf("got %v with %d details", err, len(status.Convert(err).Details()))
	}
}

// TestUnknownMethods: the names of unknown methods, which a caller chooses, neither crash
// the process nor become labels of metrics.
func TestUnknownMethods(t *testing.T) {
	ts := startServer(t)
	conn := ts.dial(t, ts.ca.Issue(func(*x509.Certificate) {}))
	for _, method := range []string{"/x\xff/y", "/a/b", "/c/d", "/secretbroker.v1.ResolverService/resolve", "/"} {
		if err := conn.Invoke(t.Context(), method, &emptypb.Empty{}, &emptypb.Empty{}); err == nil {
			t.Errorf("%q was answered", method)
		}
	}
	if _, err := ask(t, ts.dial(t, ts.ca.Client(string(granted))), &secretbrokerv1.ResolveRequest{}); err != nil {
		t.Fatal(err)
	}
	families, err := ts.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "method" && l.GetValue() != "unknown" && rules["/"+l.GetValue()] == refused {
					t.Errorf("%s has the label %q", f.GetName(), l.GetValue())
				}
			}
		}
	}
}

// TestFailedHandshakesAreTold: failed handshakes are logged, without filling the log.
func TestFailedHandshakesAreTold(t *testing.T) {
	ts := startServer(t)
	stranger := trusttest.NewCA(t, "test CA").Client(string(granted))
	for range 5 {
		if _, err := ask(t, ts.dial(t, stranger), &secretbrokerv1.ResolveRequest{}); err == nil {
			t.Fatal("the connection was accepted")
		}
	}
	asynctest.Eventually(t, "the handshakes are counted", func() bool { return testutil.ToFloat64(ts.handshakes) >= 5 })
	if log := ts.log.String(); strings.Count(log, "refused a connection") != 1 || !strings.Contains(log, "127.0.0.1") {
		t.Errorf("log: %s", log)
	}
}

// TestCertificateExpiresDuringAConnection: the expiry ends the caller's identity.
func TestCertificateExpiresDuringAConnection(t *testing.T) {
	ic := &interceptor{rules: rules}
	now := time.Now()
	ctx := peer.NewContext(t.Context(), &peer.Peer{Addr: &net.TCPAddr{}, AuthInfo: peerIdentity{principal: granted, notAfter: now}})
	var id peerIdentity
	if who, err := identityOf(ctx, &id); err != nil || who.Principal != granted {
		t.Fatalf("%v, %v", who, err)
	}
	const method = "/secretbroker.v1.ResolverService/Resolve"
	entrance := &limiter{Limiter: admission.New(admission.Limits{})}
	if err := ic.admit(&id, entrance, ic.rules[method], now); err != nil {
		t.Errorf("at its last moment: %v", err)
	}
	if err := ic.admit(&id, entrance, ic.rules[method], now.Add(time.Second)); secret.AsError(err).Reason != secret.ReasonUnauthenticated {
		t.Errorf("afterwards: %v", err)
	}
}

func TestExplainOverTheWire(t *testing.T) {
	ts := startServer(t)
	res, err := secretbrokerv1.NewPolicyServiceClient(ts.dial(t, ts.ca.Client(string(auditorID)))).
		Explain(t.Context(), &secretbrokerv1.ExplainRequest{Reference: "ref", Principal: "p", IntegrationId: "cspi", PageSize: 3, PageToken: "this"})
	if err != nil {
		t.Fatal(err)
	}
	want := &secretbrokerv1.ExplainResponse{
		Reference: "ref", RequestId: res.GetRequestId(), NextPageToken: "3 after this",
		Readers: []*secretbrokerv1.Access{{IntegrationId: "cspi", GrantId: "g2", Principal: "spiffe://example.org/*"}},
		Decisions: []*secretbrokerv1.Decision{{
			IntegrationId: "cspi", Allowed: true, GrantId: "g2", Explanation: "because",
			Grants: []*secretbrokerv1.GrantMatch{{GrantId: "g0", PrincipalMatches: true, StoreMatches: true, SecretMatches: true, KeyMatches: true}, {GrantId: "g1"}},
		}},
	}
	if !proto.Equal(res, want) || res.GetRequestId() == "" {
		t.Errorf("got %v", res)
	}
}
