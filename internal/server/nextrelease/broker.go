// Package nextrelease is a broker for tests whose answers have every field set. Its
// messages are those of this release, or those of an invented next one: with more fields in
// every message, more values in every enum, and reasons that this release does not know.
//
// Tests of clients use it to prove the promises of docs/compatibility.md, and to fix the
// output of the command line in golden files. Because the messages are derived from the
// descriptors, a new method or field takes part without a change here.
package nextrelease

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/secretbroker/secretbroker/internal/trust/trusttest"
)

// Options say how a broker answers.
type Options struct {
	// Next: with the messages of the next release.
	Next bool
	// Fail: every call fails with NextReason and details of an unknown type.
	Fail bool
}

// Broker is a running broker.
type Broker struct {
	// Addr is its address, and the files are those of a client that it accepts.
	Addr, CAFile, CertFile, KeyFile string

	files *protoregistry.Files
	opts  Options
}

// Start starts a broker that runs until the end of the test.
func Start(t testing.TB, opts Options) *Broker {
	t.Helper()
	files, err := Files(opts.Next)
	if err != nil {
		t.Fatal(err)
	}
	ca := trusttest.NewCA(t, "test CA")
	own := ca.Issue(func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} })
	client := ca.Issue(func(c *x509.Certificate) { c.DNSNames = []string{"client.example.org"} })
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	b := &Broker{
		Addr: lis.Addr().String(), CAFile: filepath.Join(dir, "ca.pem"), CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem"),
		files: files, opts: opts,
	}
	for file, data := range map[string][]byte{b.CAFile: ca.PEM(), b.CertFile: trusttest.CertPEM(client), b.KeyFile: trusttest.KeyPEM(t, client)} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	server := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(&tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*own}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.Pool(),
		})),
		grpc.ForceServerCodec(codec{}),
		grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error { return b.answer(stream) }),
	)
	healthpb.RegisterHealthServer(server, health.NewServer())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(lis) // ends with Stop
	}()
	t.Cleanup(func() { server.Stop(); <-done })
	return b
}

// answer answers a call of any method of the API.
func (b *Broker) answer(stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	md, err := b.Method(method)
	if err != nil {
		return status.Error(codes.Unimplemented, err.Error())
	}
	var request raw
	if err := stream.RecvMsg(&request); err != nil {
		return err
	}
	if b.opts.Fail {
		return failure()
	}
	f := filler{next: b.opts.Next}
	return stream.SendMsg(f.message(md.Output()))
}

// Method returns the descriptor of the method with a name such as
// /secretbroker.v1.ResolverService/Resolve.
func (b *Broker) Method(name string) (protoreflect.MethodDescriptor, error) {
	full := strings.ReplaceAll(strings.TrimPrefix(name, "/"), "/", ".")
	d, err := b.files.FindDescriptorByName(protoreflect.FullName(full))
	if err != nil {
		return nil, err
	}
	md, ok := d.(protoreflect.MethodDescriptor)
	if !ok {
		return nil, fmt.Errorf("%s is not a method", name)
	}
	return md, nil
}

// failure is an error of the next release.
func failure() error {
	st, err := status.New(codes.FailedPrecondition, "a failure of the next release").WithDetails(
		&errdetails.ErrorInfo{Reason: NextReason, Domain: "secretbroker", Metadata: map[string]string{"nextKey": "value"}},
		&errdetails.RequestInfo{RequestId: "0123456789abcdef0123456789abcdef"},
	)
	if err != nil {
		return err
	}
	p := st.Proto()
	p.Details = append(p.Details, &anypb.Any{TypeUrl: "type.googleapis.com/secretbroker.v1.DetailOfTheNextRelease", Value: []byte{8, 1}})
	return status.FromProto(p).Err()
}

// raw is a message that is not decoded.
type raw []byte

// codec decodes into raw, and encodes and decodes other messages as protobuf.
type codec struct{}

func (codec) Name() string { return "proto" }

func (codec) Marshal(v any) ([]byte, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("cannot encode %T", v)
	}
	return proto.Marshal(m)
}

func (codec) Unmarshal(data []byte, v any) error {
	switch m := v.(type) {
	case *raw:
		*m = append((*m)[:0], data...)
		return nil
	case proto.Message:
		return proto.Unmarshal(data, m)
	default:
		return fmt.Errorf("cannot decode into %T", v)
	}
}
