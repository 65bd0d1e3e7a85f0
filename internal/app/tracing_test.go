package app

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	tracepb "go.opentelemetry.io/proto/slim/otlp/trace/v1"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/config"
	"github.com/secretbroker/secretbroker/internal/devmode"
	"github.com/secretbroker/secretbroker/internal/tracing/otlp/otlptest"
	"github.com/secretbroker/secretbroker/internal/trust/trusttest"
)

// traced requests a trace for calls with the returned context.
func traced(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
}

// tracingTo adds the section to secretbroker.yaml.
func tracingTo(section string) func(*devmode.Environment) error {
	return func(env *devmode.Environment) error {
		return replace(env.ConfigFile, readFile(env.ConfigFile)+"tracing: {"+section+"}\n")
	}
}

// attribute returns a span's attribute as text.
func attribute(s *tracepb.Span, key string) string {
	for _, kv := range s.GetAttributes() {
		if kv.GetKey() == key {
			if v := kv.GetValue(); v.GetStringValue() != "" {
				return v.GetStringValue()
			}
			return kv.GetValue().String()
		}
	}
	return ""
}

// TestTraces checks the traces of a whole broker: of a call that reads the store, of one that
// is answered from memory, and of one that is denied.
func TestTraces(t *testing.T) {
	collector := otlptest.Start(t, nil)
	b := newBroker(t, tracingTo("endpoint: '"+collector.Addr+"', insecure: true, service_name: broker-under-test"))
	c := b.as(t, b.Worker)
	req := request("p", vault+"::sqlserver-db-secret::password", "q", vault+"::sqlserver-db-secret::user", "r", vault+"::postgres-password")
	var ids []string
	for range 2 {
		res, err := c.Resolve(traced(t.Context()), req)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, res.RequestID)
	}
	if _, err := c.Resolve(t.Context(), req); err != nil { // without a trace
		t.Fatal(err)
	}
	_, err := c.Resolve(traced(t.Context()), request("p", vault+"::oracle-password"))
	var denied *client.Error
	if !errors.As(err, &denied) {
		t.Fatalf("got %v", err)
	}
	const spans = 1 + 2*2 + 1 + 1
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	type seen struct{ Name, Parent, RequestID, Integration, Code, Reason, Kind, Store, Source string }
	var got []seen
	all := collector.Wait(ctx, spans)
	names := map[string]string{"\x00\xf0\x67\xaa\x0b\xa9\x02\xb7": "the caller"}
	for _, s := range all {
		names[string(s.GetSpanId())] = s.GetName()
	}
	for _, s := range all {
		got = append(got, seen{
			s.GetName(), names[string(s.GetParentSpanId())], attribute(s, "secretbroker.request_id"), attribute(s, "secretbroker.integration_id"),
			attribute(s, "rpc.response.status_code"), attribute(s, "error.type"),
			attribute(s, "secretbroker.store.kind"), attribute(s, "secretbroker.store.name"), attribute(s, "secretbroker.load.source"),
		})
		if string(s.GetTraceId()) != "\x4b\xf9\x2f\x35\x77\xb3\x4d\xa6\xa3\xce\x92\x9d\x0e\x0e\x47\x36" {
			t.Errorf("another trace: %v", s)
		}
	}
	const method = "secretbroker.v1.ResolverService/Resolve"
	served := func(id, code, reason string) seen {
		return seen{Name: method, Parent: "the caller", RequestID: id, Integration: devmode.IntegrationID, Code: code, Reason: reason}
	}
	read := seen{Name: "read store", Parent: "load secret", Kind: "AZURE_KEY_VAULT", Store: vault}
	load := seen{Name: "load secret", Parent: method, Kind: "AZURE_KEY_VAULT", Store: vault, Source: "miss"}
	want := []seen{
		served(ids[0], "OK", ""), read, read, load, load,
		served(ids[1], "OK", ""),
		served(denied.RequestID, "PERMISSION_DENIED", "ACCESS_DENIED"),
	}
	if len(got) == spans { // the two loads run at the same time
		slices.SortFunc(got[1:5], func(a, b seen) int { return cmp.Compare(b.Name, a.Name) })
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	// The request id of a trace leads to its audit records.
	for _, id := range append(ids, denied.RequestID) {
		if !strings.Contains(b.auditText(t), id) {
			t.Errorf("the audit does not have request %s", id)
		}
	}
	text := collector.Text(t)
	for _, secretName := range []string{"sqlserver-db-secret", "postgres-password", "oracle-password"} {
		if strings.Contains(text, secretName) {
			t.Errorf("a trace names a secret: %s", secretName)
		}
	}
	if !strings.Contains(text, "broker-under-test") {
		t.Error("service_name is missing")
	}
	for _, line := range []string{"secretbroker_tracing_calls_total 3", "secretbroker_tracing_calls_over_limit_total 0", "secretbroker_tracing_spans_waiting"} {
		if !strings.Contains(b.get(t, "/metrics"), line) {
			t.Errorf("the metrics do not have %s", line)
		}
	}
}

// TestTracesOverTLS: broker and collector authenticate each other, and the broker's
// certificate can be renewed. With invalid files the broker does not start, and validate
// reports them.
func TestTracesOverTLS(t *testing.T) {
	ca := trusttest.NewCA(t, "collectors")
	server := ca.Issue(func(c *x509.Certificate) { c.DNSNames = []string{"localhost"} })
	collector := otlptest.Start(t, credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{*server}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.Pool(), MinVersion: tls.VersionTLS12,
	}))
	_, port, _ := net.SplitHostPort(collector.Addr)
	files := func(env *devmode.Environment) error {
		client := ca.Client("spiffe://example.org/broker")
		for name, data := range map[string][]byte{
			"traces-ca.pem": ca.PEM(), "traces.pem": trusttest.CertPEM(client), "traces-key.pem": trusttest.KeyPEM(t, client),
			"half.pem": ca.PEM()[:100],
		} {
			if err := os.WriteFile(filepath.Join(env.Dir, name), data, 0o600); err != nil {
				return err
			}
		}
		return tracingTo("endpoint: 'localhost:" + port + "', ca_file: traces-ca.pem, cert_file: traces.pem, key_file: traces-key.pem")(env)
	}
	b := newBroker(t, files)
	if _, err := b.as(t, b.Worker).Resolve(traced(t.Context()), sample); err != nil {
		t.Fatal(err)
	}
	if err := b.stop(); err != nil { // sends the remaining spans
		t.Fatal(err)
	}
	if n := len(collector.Wait(t.Context(), 0)); n != 3 {
		t.Errorf("%d spans arrived before the end\n%s", n, b.log.String())
	}
	for _, change := range [][2]string{{"traces-ca.pem", "half.pem"}, {"traces-ca.pem", "missing.pem"}, {"traces-key.pem", "server-key.pem"}, {"cert_file: traces.pem", "cert_file: missing.pem"}} {
		_, err := startBroker(t.Context(), t.TempDir(), func(env *devmode.Environment) error {
			return errors.Join(files(env), edit(env.ConfigFile, change[0], change[1]))
		})
		var coded *exitError
		if !errors.As(err, &coded) || coded.Code != exitUsage || !strings.Contains(err.Error(), "tracing.") {
			t.Errorf("with %s the broker starts: %v", change[1], err)
		}
	}
	if _, err := tracingConfig(config.Tracing{Endpoint: "c:1", CAFile: "missing.pem"}, nil); err == nil {
		t.Error("validate reports no error")
	}
}

// TestTracesWithoutCollector: an unreachable collector affects no call; the metrics and one
// log line report it.
func TestTracesWithoutCollector(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	b := newBroker(t, tracingTo("endpoint: '"+l.Addr().String()+"', insecure: true, max_calls_per_second: 5"))
	c := b.as(t, b.Worker)
	for range 50 {
		if _, err := c.Resolve(traced(t.Context()), sample); err != nil {
			t.Fatal(err)
		}
	}
	if page := b.get(t, "/metrics"); !strings.Contains(page, `secretbroker_tracing_spans_dropped_total{reason="full"} 0`) || strings.Contains(page, "secretbroker_tracing_calls_over_limit_total 0\n") {
		t.Error("the metrics do not count calls over the limit")
	}
	if err := b.stop(); err != nil {
		t.Fatal(err)
	}
	if log := b.log.String(); !strings.Contains(log, "cannot send traces to the collector") {
		t.Errorf("the log does not report it:\n%s", log)
	}
}
