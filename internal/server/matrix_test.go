package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/secretbroker/secretbroker/internal/trust/trusttest"
	"github.com/secretbroker/secretbroker/internal/watch"
)

// TestAuthorizationMatrix calls every method that the server serves as every kind of
// caller. It fails for a method or a kind of caller without an expectation.
func TestAuthorizationMatrix(t *testing.T) {
	ts := startWatched(t, watch.Config{})
	stranger := trusttest.NewCA(t, "test CA")
	callers := map[string]*tls.Certificate{
		"without a certificate":         nil,
		"of another CA":                 stranger.Client(string(granted)),
		"with an expired certificate":   ts.ca.Issue(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }),
		"with a server certificate":     ts.ca.Issue(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }),
		"without an identity":           ts.ca.Issue(func(*x509.Certificate) {}),
		"with two SPIFFE IDs":           ts.ca.Client(string(granted), "spiffe://example.org/connect/worker-2"),
		"with several DNS names":        ts.ca.DNS("a.example.org", "b.example.org"),
		"without a grant":               ts.ca.Client("spiffe://example.org/elsewhere"),
		"known by DNS, without a grant": ts.ca.DNS("worker.example.org"),
		"an auditor":                    ts.ca.Client(string(auditorID)),
		"an owner":                      ts.ca.Client(string(ownerID)),
		"granted":                       ts.ca.Client(string(granted)),
	}
	// The expected codes by kind of caller. "refused" callers fail the handshake.
	const refusedCode = codes.Unavailable
	refusedCallers := map[string]bool{
		"without a certificate": true, "of another CA": true, "with an expired certificate": true, "with a server certificate": true,
	}
	unidentified := map[string]bool{"without an identity": true, "with two SPIFFE IDs": true, "with several DNS names": true}
	anybody := func(string) codes.Code { return codes.OK }
	// Reflection's answer to an empty request shows that the call was admitted.
	reflected := func(string) codes.Code { return codes.InvalidArgument }
	// The use case decides about each config, and the request has none.
	invalid := func(caller string) codes.Code {
		if unidentified[caller] {
			return codes.Unauthenticated
		}
		return codes.InvalidArgument
	}
	resolving := func(caller string) codes.Code {
		switch {
		case unidentified[caller]:
			return codes.Unauthenticated
		case caller == "granted":
			return codes.OK
		default:
			return codes.PermissionDenied
		}
	}
	// The use case checks roles, so every caller with an identity reaches it.
	managing := func(may ...string) func(string) codes.Code {
		return func(caller string) codes.Code {
			switch {
			case unidentified[caller]:
				return codes.Unauthenticated
			case slices.Contains(may, caller):
				return codes.OK
			default:
				return codes.PermissionDenied
			}
		}
	}
	want := map[string]func(caller string) codes.Code{
		"/secretbroker.v1.ResolverService/Resolve": resolving,
		// Check reports to a caller without a grant that it has none.
		"/secretbroker.v1.ResolverService/Check": func(caller string) codes.Code {
			if unidentified[caller] {
				return codes.Unauthenticated
			}
			return codes.OK
		},
		"/secretbroker.v1.PolicyService/Explain":                         managing("an auditor"),
		"/secretbroker.v1.IntegrationService/CreateIntegration":          managing("an owner"),
		"/secretbroker.v1.IntegrationService/GetIntegration":             managing("an owner", "an auditor"),
		"/secretbroker.v1.IntegrationService/ListIntegrations":           managing("an owner", "an auditor", "granted", "without a grant", "known by DNS, without a grant"),
		"/secretbroker.v1.IntegrationService/UpdateIntegration":          managing("an owner"),
		"/secretbroker.v1.IntegrationService/DeleteIntegration":          managing("an owner"),
		"/secretbroker.v1.IntegrationService/ValidateIntegration":        managing("an owner"),
		"/secretbroker.v1.IntegrationService/GrantUse":                   managing("an owner"),
		"/secretbroker.v1.IntegrationService/RevokeUse":                  managing("an owner"),
		"/secretbroker.v1.IntegrationService/ListUsage":                  managing("an owner", "an auditor"),
		"/secretbroker.v1.PolicyService/WhoAmI":                          anybody,
		"/secretbroker.v1.DenialService/CreateDenial":                    managing("an owner"),
		"/secretbroker.v1.DenialService/ListDenials":                     managing("an owner", "an auditor"),
		"/secretbroker.v1.DenialService/DeleteDenial":                    managing("an owner"),
		"/secretbroker.v1.WatchService/Watch":                            invalid,
		"/secretbroker.v1.WatchService/Refresh":                          invalid,
		"/grpc.health.v1.Health/Check":                                   anybody,
		"/grpc.health.v1.Health/List":                                    anybody,
		"/grpc.health.v1.Health/Watch":                                   anybody,
		"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      reflected,
		"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": reflected,
		"/secretbroker.v1.ResolverService/NoSuchMethod":                  func(string) codes.Code { return codes.Unimplemented },
		"/secretbroker.v1.NoSuchService/Resolve":                         func(string) codes.Code { return codes.Unimplemented },
	}
	methods := map[string]bool{"/secretbroker.v1.ResolverService/NoSuchMethod": false, "/secretbroker.v1.NoSuchService/Resolve": false}
	for service, info := range ts.grpc.GetServiceInfo() {
		for _, m := range info.Methods {
			methods["/"+service+"/"+m.Name] = m.IsServerStream
		}
	}
	for method := range want {
		if _, ok := methods[method]; !ok {
			t.Errorf("%s is expected and not served", method)
		}
	}
	for caller, cert := range callers {
		conn := ts.dial(t, cert)
		for method, streaming := range methods {
			t.Run(strings.TrimPrefix(method, "/")+" "+caller, func(t *testing.T) {
				expect, ok := want[method]
				if !ok {
					t.Fatal("the method has no expectation")
				}
				code := expect(caller)
				if refusedCallers[caller] {
					code = refusedCode
				}
				if got := status.Code(callAny(t, conn, method, streaming)); got != code {
					t.Errorf("got %v, want %v", got, code)
				}
			})
		}
	}
}

// callAny calls a method with an empty message and receives one answer.
func callAny(t *testing.T, conn *grpc.ClientConn, method string, streaming bool) error {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if !streaming {
		return conn.Invoke(ctx, method, &emptypb.Empty{}, &emptypb.Empty{})
	}
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(&healthpb.HealthCheckRequest{}); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	err = stream.RecvMsg(&healthpb.HealthCheckResponse{})
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
