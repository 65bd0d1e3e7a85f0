package server

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/denial"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
)

func (s *trustedServer) deny(entries ...denial.Entry) {
	s.denials.Put(denial.FromFile, denial.NewList(entries))
}

// reasonIn returns the broker's reason in an error, "" if there is none.
func reasonIn(t *testing.T, err error) secret.Reason {
	t.Helper()
	if err == nil || len(status.Convert(err).Details()) == 0 {
		return ""
	}
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(interface{ GetReason() string }); ok {
			return secret.Reason(info.GetReason())
		}
	}
	return ""
}

// everyCall makes a call of each kind on a connection and returns their errors.
func everyCall(t *testing.T, conn *grpc.ClientConn) map[string]error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	errs := make(map[string]error)
	_, errs["Resolve"] = ask(t, conn, &secretbrokerv1.ResolveRequest{})
	_, errs["health"] = healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	_, errs["management"] = secretbrokerv1.NewIntegrationServiceClient(conn).ListIntegrations(ctx, &secretbrokerv1.ListIntegrationsRequest{})
	_, errs["WhoAmI"] = secretbrokerv1.NewPolicyServiceClient(conn).WhoAmI(ctx, &secretbrokerv1.WhoAmIRequest{})
	watch, err := healthpb.NewHealthClient(conn).Watch(ctx, &healthpb.HealthCheckRequest{})
	if err == nil {
		_, err = watch.Recv()
	}
	errs["health stream"] = err
	reflect, err := grpc_reflection_v1.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err == nil {
		err = reflect.Send(&grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{}})
	}
	if err == nil || errors.Is(err, io.EOF) { // refused before the request was sent
		_, err = reflect.Recv()
	}
	errs["reflection"] = err
	return errs
}

// TestDenied: a denial by each kind of subject closes the caller's open connection with its
// active call. The caller can reconnect, every call of it is refused with the reason, and
// after the denial has been removed it is served again. Another caller notices nothing.
func TestDenied(t *testing.T) {
	subjects := map[string]func(leaf *x509.Certificate) denial.Subject{
		"principal": func(*x509.Certificate) denial.Subject { return denial.Subject{Principal: granted} },
		"fingerprint": func(c *x509.Certificate) denial.Subject {
			return denial.Subject{SHA256: denial.CertificateOf(c, "").SHA256}
		},
		"serial": func(c *x509.Certificate) denial.Subject {
			return denial.Subject{Serial: c.SerialNumber.Text(16), Issuer: denial.IssuerOf(c)}
		},
	}
	for name, subject := range subjects {
		t.Run(name, func(t *testing.T) {
			s := startTrusted(t, Limits{}, IdentityRules{})
			leaked, other := s.ca.Client(string(granted)), s.ca.Client("spiffe://example.org/connect/worker-2")
			bad, good := s.dial(t, leaked), s.dial(t, other)
			for call, err := range everyCall(t, bad) {
				if err != nil {
					t.Fatalf("before the denial, %s: %v", call, err)
				}
			}
			if _, err := healthpb.NewHealthClient(good).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
				t.Fatal(err)
			}
			begun := make(chan struct{})
			s.resolver.mu.Lock()
			s.resolver.next = func(ctx context.Context) (*resolve.Result, error) {
				close(begun)
				<-ctx.Done()
				return nil, ctx.Err()
			}
			s.resolver.mu.Unlock()
			active := make(chan error, 1)
			go func() {
				_, err := ask(t, bad, &secretbrokerv1.ResolveRequest{})
				active <- err
			}()
			<-begun
			s.resolver.mu.Lock()
			s.resolver.next = nil
			s.resolver.mu.Unlock()

			begin := time.Now()
			s.deny(denial.Entry{Subject: subject(leaked.Leaf), Reason: "canary"})
			if err := <-active; status.Code(err) != codes.Unavailable {
				t.Errorf("the active call got %v", err)
			}
			if took := time.Since(begin); took > time.Second {
				t.Errorf("the connection was closed after %v", took)
			}
			for call, err := range everyCall(t, bad) {
				if status.Code(err) != codes.Unauthenticated || reasonIn(t, err) != secret.ReasonCertificateDenied || strings.Contains(err.Error(), "canary") {
					t.Errorf("%s of a denied caller: %v", call, err)
				}
			}
			if state := good.GetState(); state != connectivity.Ready {
				t.Errorf("another caller's connection is %v", state)
			}
			if log := s.log.String(); !strings.Contains(log, "its client is denied") || !strings.Contains(log, "a denied client connected") {
				t.Errorf("log: %s", log)
			}

			s.deny()
			ended(t, bad) // the connection of the denied caller
			for call, err := range everyCall(t, bad) {
				if err != nil {
					t.Errorf("after the denial, %s: %v", call, err)
				}
			}
		})
	}
}

// TestDeniedOnOpenConnection: a call on an open connection is refused with the reason even
// before the connection is closed.
func TestDeniedOnOpenConnection(t *testing.T) {
	s := startTrusted(t, Limits{}, IdentityRules{})
	conn := &connection{certificate: denial.Certificate{Principal: granted}, denials: s.denials}
	ic := &interceptor{}
	id := &peerIdentity{principal: granted, notAfter: time.Now().Add(time.Hour), conn: conn}
	for _, rule := range []rule{anyPeer, identified} {
		if err := ic.mayCall(id, rule, time.Now()); err != nil {
			t.Fatal(err)
		}
		s.deny(denial.Entry{Subject: denial.Subject{Principal: granted}, ExpiresAt: time.Now().Add(time.Hour)})
		for range 2 { // a denial is not cached
			if err := ic.mayCall(id, rule, time.Now()); secret.AsError(err).Reason != secret.ReasonCertificateDenied {
				t.Errorf("got %v", err)
			}
		}
		if err := ic.mayCall(id, rule, time.Now().Add(59*time.Minute)); err == nil {
			t.Error("the denial ended too early")
		}
		id.notAfter = time.Now().Add(3 * time.Hour)
		if err := ic.mayCall(id, rule, time.Now().Add(time.Hour)); err != nil {
			t.Errorf("after the denial has expired: %v", err)
		}
		s.deny()
	}
}

// TestDeniedUsesNothingOfThePrincipal: connections with a denied certificate do not count
// against the limit of the principal, which has another certificate by now.
func TestDeniedUsesNothingOfThePrincipal(t *testing.T) {
	s := startTrusted(t, Limits{MaxConnectionsPerPrincipal: 1}, IdentityRules{})
	leaked, renewed := s.ca.Client(string(granted)), s.ca.Client(string(granted))
	s.deny(denial.Entry{Subject: denial.Subject{SHA256: denial.CertificateOf(leaked.Leaf, "").SHA256}})
	for range 2 {
		if _, err := ask(t, s.dial(t, leaked), &secretbrokerv1.ResolveRequest{}); reasonIn(t, err) != secret.ReasonCertificateDenied {
			t.Fatalf("got %v", err)
		}
	}
	if _, err := ask(t, s.dial(t, renewed), &secretbrokerv1.ResolveRequest{}); err != nil {
		t.Errorf("with the new certificate: %v", err)
	}
}

// TestDeniedConnectionsEnd: the broker closes a new connection of a denied caller when the
// caller had time to learn the reason.
func TestDeniedConnectionsEnd(t *testing.T) {
	s := startTrusted(t, Limits{}, IdentityRules{})
	s.deny(denial.Entry{Subject: denial.Subject{Principal: granted}})
	conn := s.dial(t, s.ca.Client(string(granted)))
	if _, err := ask(t, conn, &secretbrokerv1.ResolveRequest{}); reasonIn(t, err) != secret.ReasonCertificateDenied {
		t.Fatalf("got %v", err)
	}
	begin := time.Now()
	ended(t, conn)
	if took := time.Since(begin); took > deniedTime+2*time.Second {
		t.Errorf("closed after %v", took)
	}
}

func TestDenialService(t *testing.T) {
	ts := startServer(t)
	cert := ts.ca.Client(string(ownerID))
	client := secretbrokerv1.NewDenialServiceClient(ts.dial(t, cert))
	until := time.Now().Add(time.Hour).Truncate(time.Second).UTC()
	req := &secretbrokerv1.CreateDenialRequest{
		Denial: &secretbrokerv1.Denial{Subject: &secretbrokerv1.DenialSubject{CertificateSerial: "a1", CertificateIssuer: "CN=x"}, Reason: "leaked", ExpireTime: timestamppb.New(until)},
		Force:  true, ValidateOnly: true,
	}
	res, err := client.CreateDenial(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	want := denial.Entry{Subject: denial.Subject{Serial: "a1", Issuer: "CN=x"}, Reason: "leaked", ExpiresAt: until}
	if ts.manager.entry != want || !ts.manager.options.Force || !ts.manager.options.ValidateOnly {
		t.Errorf("the use case got %+v, %+v", ts.manager.entry, ts.manager.options)
	}
	if ts.manager.caller.CertificateIssuer != denial.IssuerOf(cert.Leaf) || ts.manager.caller.CertificateIssuer == "" {
		t.Errorf("the caller's issuer is %q", ts.manager.caller.CertificateIssuer)
	}
	if m := res.GetDenial(); m.GetCreatedBy() != string(ownerID) || m.GetSubject().GetCertificateSerial() != "a1" || !m.GetExpireTime().AsTime().Equal(until) || res.GetRequestId() == "" {
		t.Errorf("got %v", res)
	}
	req.Denial.ExpireTime = &timestamppb.Timestamp{Nanos: -1}
	if _, err := client.CreateDenial(t.Context(), req); status.Code(err) != codes.InvalidArgument {
		t.Errorf("an invalid time: %v", err)
	}
	list, err := client.ListDenials(t.Context(), &secretbrokerv1.ListDenialsRequest{})
	if err != nil || list.GetNextPageToken() != "next" || !list.GetDenials()[0].GetReadOnly() || list.GetDenials()[0].GetSubject().GetPrincipal() != string(granted) {
		t.Errorf("got %v, %v", list, err)
	}
	if _, err := client.DeleteDenial(t.Context(), &secretbrokerv1.DeleteDenialRequest{Subject: &secretbrokerv1.DenialSubject{Principal: "spiffe://example.org/x"}}); err != nil || ts.manager.entry.Principal != authz.Principal("spiffe://example.org/x") {
		t.Errorf("%v, %+v", err, ts.manager.entry)
	}
}

func TestWhoAmI(t *testing.T) {
	s := startTrusted(t, Limits{}, IdentityRules{})
	who := func(t *testing.T, conn *grpc.ClientConn) *secretbrokerv1.WhoAmIResponse {
		t.Helper()
		res, err := secretbrokerv1.NewPolicyServiceClient(conn).WhoAmI(t.Context(), &secretbrokerv1.WhoAmIRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	cert := s.ca.Client(string(ownerID))
	res := who(t, s.dial(t, cert))
	c := denial.CertificateOf(cert.Leaf, ownerID)
	if res.GetPrincipal() != string(ownerID) || res.GetProblem() != "" || res.GetUsableIntegrationCount() != 2 || len(res.GetRoles()) != 2 ||
		res.GetRoles()[0].GetRole() != secretbrokerv1.Role_ROLE_RESOURCE_OWNER || !res.GetRoles()[0].GetAllIntegrations() || res.GetRoles()[1].GetIntegrationCount() != 3 {
		t.Errorf("got %v", res)
	}
	if m := res.GetCertificate(); m.GetSha256() != c.SHA256 || m.GetSerial() != c.Serial || m.GetIssuer() != c.Issuer || !m.GetExpireTime().AsTime().Equal(cert.Leaf.NotAfter) {
		t.Errorf("certificate %v, want %v", m, c)
	}
	if res.GetBrokerVersion() != "v1.2.3" || time.Since(res.GetBrokerTime().AsTime()).Abs() > time.Minute || res.GetRequestId() == "" {
		t.Errorf("got %v", res)
	}
	res = who(t, s.dial(t, s.ca.DNS("a.example.org", "b.example.org")))
	if res.GetPrincipal() != "" || !strings.Contains(res.GetProblem(), "several DNS names") || res.GetCertificate().GetSha256() == "" || len(res.GetRoles()) > 0 {
		t.Errorf("a caller without an identity gets %v", res)
	}
}
