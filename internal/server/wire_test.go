package server

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
)

func TestResolveOverTheWire(t *testing.T) {
	ts := startServer(t)
	conn := ts.dial(t, ts.ca.withURIs(string(granted)))
	res, err := ask(t, conn, &secretbrokerv1.ResolveRequest{
		IntegrationId: "cspi", Configs: map[string]string{"p": "ref"}, MaxAge: durationpb.New(0), AllowPartial: true, Connector: "c1",
	})
	if err != nil {
		t.Fatal(err)
	}
	got := res.GetConfigs()["p"]
	if got.GetValue() != "the-value" || got.GetVersion() != "v1" || !got.GetStale() || !got.GetExpireTime().AsTime().After(got.GetFetchTime().AsTime()) {
		t.Errorf("got %v", got)
	}
	if e := res.GetErrors()["q"]; e.GetReason() != "STORE_THROTTLED" || e.GetRetryDelay().AsDuration() != time.Second {
		t.Errorf("got %v", e)
	}
	ts.resolver.mu.Lock()
	who, req := ts.resolver.who, ts.resolver.req
	_, hasDeadline := ts.resolver.ctx.Deadline()
	ts.resolver.mu.Unlock()
	if who.Principal != granted || who.CertificateSerial != "abc" || who.PeerAddress == "" {
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
	res, err := secretbrokerv1.NewResolverServiceClient(ts.dial(t, ts.ca.withURIs(string(granted)))).
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
		t.Errorf("a report tells the value: %v", res)
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

// TestDecodedBytes: decoded values come as bytes, and as text too where they are.
func TestDecodedBytes(t *testing.T) {
	res := responseOf(&resolve.Result{Configs: []resolve.Resolved{
		{Config: "text", Decoded: true, Value: secret.NewValue([]byte("abc"))},
		{Config: "bytes", Decoded: true, Value: secret.NewValue([]byte{0xff, 0})},
		{Config: "plain", Value: secret.NewValue([]byte("abc"))},
	}}, "r").GetConfigs()
	for name, want := range map[string][2]string{"text": {"abc", "abc"}, "bytes": {"", "\xff\x00"}, "plain": {"abc", ""}} {
		if got := res[name]; got.GetValue() != want[0] || string(got.GetValueBytes()) != want[1] {
			t.Errorf("%s: %q, %q", name, got.GetValue(), got.GetValueBytes())
		}
	}
}

// TestConnectionsPerPrincipal: a caller with too many connections is told so,
// with even more it is refused, and others do not notice.
func TestConnectionsPerPrincipal(t *testing.T) {
	ts := startServer(t) // with a limit of 4
	cert := ts.ca.withURIs(string(granted))
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
	if _, err := ask(t, ts.dial(t, ts.ca.withURIs("spiffe://example.org/other")), &secretbrokerv1.ResolveRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("another caller: %v", err)
	}
	for _, conn := range conns {
		conn.Close()
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for { // the server notices closed connections in its own time
		conn := ts.dial(t, cert)
		_, err := ask(t, conn, &secretbrokerv1.ResolveRequest{})
		conn.Close()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatal(err)
		}
	}
}

func TestInvalidMaxAge(t *testing.T) {
	ts := startServer(t)
	_, err := ask(t, ts.dial(t, ts.ca.withURIs(string(granted))), &secretbrokerv1.ResolveRequest{MaxAge: &durationpb.Duration{Seconds: 1 << 60}})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("got %v", err)
	}
}
