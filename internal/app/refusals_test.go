package app

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/devmode"
)

func quoteJSON(s string) string {
	data, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(data)
}

// neverRefused are the methods that answer every identified caller, so that there is no
// refusal to record. They reveal nothing about secrets, grants or integrations.
var neverRefused = []protoreflect.FullName{"secretbroker.v1.PolicyService.WhoAmI"}

// dialAs returns a connection with an identity.
func (b *broker) dialAs(t *testing.T, who devmode.Identity) *grpc.ClientConn {
	t.Helper()
	return dialBroker(t, b.addr, b.CAFile, who)
}

// dialBroker returns a connection to the broker that listens on an address.
func dialBroker(t *testing.T, addr, caFile string, who devmode.Identity) *grpc.ClientConn {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(who.CertFile, who.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(readFile(caFile)))
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, Certificates: []tls.Certificate{cert}})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// services are the services of the broker's own API.
func services() (all []protoreflect.ServiceDescriptor) {
	protoregistry.GlobalFiles.RangeFilesByPackage("secretbroker.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			all = append(all, f.Services().Get(i))
		}
		return true
	})
	return all
}

// bySecret are the methods whose records are about one secret.
var bySecret = []protoreflect.Name{"Resolve", "Check", "Watch", "Refresh"}

// refusedRequest returns a request of a method that is well-formed.
func refusedRequest(t *testing.T, in protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	typ, err := protoregistry.GlobalTypes.FindMessageByName(in.FullName())
	if err != nil {
		t.Fatal(err)
	}
	m := typ.New()
	for name, value := range map[protoreflect.Name]string{"integration_id": devmode.IntegrationID, "reference": vault + "::sqlserver-db-secret"} {
		if f := in.Fields().ByName(name); f != nil {
			m.Set(f, protoreflect.ValueOfString(value))
		}
	}
	switch req := m.Interface().(type) {
	case *secretbrokerv1.ResolveRequest:
		req.Configs = map[string]string{"p": vault + "::sqlserver-db-secret"}
	case *secretbrokerv1.CheckRequest:
		req.Configs = map[string]string{"p": vault + "::sqlserver-db-secret"}
	case *secretbrokerv1.WatchRequest:
		req.Sets = []*secretbrokerv1.WatchSet{{IntegrationId: devmode.IntegrationID, Configs: map[string]string{"p": vault + "::sqlserver-db-secret"}}}
	case *secretbrokerv1.RefreshRequest:
		req.Configs = map[string]string{"p": vault + "::sqlserver-db-secret"}
	case *secretbrokerv1.CreateIntegrationRequest:
		req.Integration = &secretbrokerv1.Integration{Id: "other", Kind: "AZURE_KEY_VAULT"}
	case *secretbrokerv1.UpdateIntegrationRequest:
		req.Integration = &secretbrokerv1.Integration{Id: devmode.IntegrationID, DisplayName: "x"}
	case *secretbrokerv1.GrantUseRequest:
		req.Grant = &secretbrokerv1.Grant{Principals: []string{"dns:a.example.org"}}
	case *secretbrokerv1.RevokeUseRequest:
		req.Grant = &secretbrokerv1.Grant{Principals: []string{"dns:a.example.org"}}
	}
	return m.Interface()
}

// TestDocsEveryRefusalIsAudited: a call of any method by a caller without a grant or a role
// leaves a record, and "secretbroker audit query" shows it with the method. It enumerates the
// methods, so that a new one is either recorded or listed in neverRefused.
func TestDocsEveryRefusalIsAudited(t *testing.T) {
	b := newBroker(t, nil)
	conn := b.dialAs(t, b.OtherWorker)
	var methods []string
	for _, s := range services() {
		for i := range s.Methods().Len() {
			m := s.Methods().Get(i)
			if slices.Contains(neverRefused, m.FullName()) {
				continue
			}
			methods = append(methods, string(m.Name()))
			path := "/" + string(s.FullName()) + "/" + string(m.Name())
			typ, err := protoregistry.GlobalTypes.FindMessageByName(m.Output().FullName())
			if err != nil {
				t.Fatal(err)
			}
			resp := typ.New().Interface()
			req := refusedRequest(t, m.Input())
			if m.IsStreamingServer() {
				err = streamOnce(t, conn, path, req, resp)
			} else {
				err = conn.Invoke(t.Context(), path, req, resp)
			}
			// Those of bySecret but Resolve answer with an error for each config, and
			// ListIntegrations with an empty list.
			if err == nil && m.Name() != "ListIntegrations" && !slices.Contains(bySecret, m.Name()) {
				t.Errorf("%s: not refused", path)
			}
		}
	}
	if len(methods) < 12 {
		t.Fatalf("only the methods %v", methods)
	}
	asynctest.Eventually(t, "all refusals are recorded", func() bool {
		text := b.auditText(t)
		return !slices.ContainsFunc(methods, func(m string) bool { return !strings.Contains(text, `"method":"`+m+`"`) })
	})
	for line := range strings.Lines(b.auditText(t)) {
		if strings.Contains(line, `"method":`) && !strings.Contains(line, `"method":"ListIntegrations"`) &&
			!strings.Contains(line, `"reason":"ACCESS_DENIED"`) {
			t.Errorf("another record than that of a refusal: %s", line)
		}
		if strings.Contains(line, `"method":`) && !strings.Contains(line, string(b.OtherWorker.ID)) {
			t.Errorf("the record does not name the caller: %s", line)
		}
	}
	table, err := exec.Command("secretbroker", "audit", "query", b.Dir+"/audit.jsonl").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range methods {
		if !slices.Contains(bySecret, protoreflect.Name(m)) && !strings.Contains(string(table), " "+m+" ") { // these show the reference
			t.Errorf("the table does not show %s:\n%s", m, table)
		}
	}
	if n := strings.Count(string(table), vault+"::sqlserver-db-secret "); n != len(bySecret) {
		t.Errorf("the table shows %d of the references of Resolve, Check, Watch and Refresh:\n%s", n, table)
	}
}

// streamOnce calls a method with an answer of several messages and returns its error.
func streamOnce(t *testing.T, conn *grpc.ClientConn, path string, req, resp proto.Message) error {
	t.Helper()
	stream, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, path)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(req); err != nil {
		return err
	}
	_ = stream.CloseSend()
	return stream.RecvMsg(resp)
}
