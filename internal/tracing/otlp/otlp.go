// Package otlp sends spans to a collector: OTLP over gRPC, according to OpenTelemetry's
// protocol specification 1.x, with the project's own generated messages.
//
// It decides neither which calls are traced nor when spans are sent; package tracing does. It
// reads no environment variables.
package otlp

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	collectorpb "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/secretbroker/secretbroker/internal/tracing"
)

// export is the only method that the package calls. The slim module with the messages has no
// client; the other module depends on an HTTP gateway.
const export = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"

const (
	connectTime = 5 * time.Second
	// reconnectPause is the maximum pause between two attempts to connect.
	reconnectPause = 30 * time.Second
	// pingPause is longer than any Export, so that no ping is sent. gRPC's keepalive is
	// enabled nevertheless because it makes the operating system close a connection whose
	// packets have not been acknowledged for pingTime, instead of a quarter of an hour.
	pingPause = 5 * time.Minute
	pingTime  = 20 * time.Second
	// maxErrorText is the maximum length of a collector's error text in errors, in bytes.
	maxErrorText = 200
)

// Config configures an Exporter. Endpoint is required.
type Config struct {
	// Endpoint is host:port.
	Endpoint string
	// TLS is the configuration for verifying the collector; if ServerName is empty, the
	// name is the endpoint's host. Nil means plaintext.
	TLS *tls.Config
	// Current, if not nil, returns the TLS configuration for one connection, with the
	// current authorities and certificate.
	Current func(*tls.Config) *tls.Config
	// ServiceName, ServiceVersion and HostName describe the sender; empty ones are
	// omitted.
	ServiceName, ServiceVersion, HostName string
}

// Exporter sends spans to a collector. It must be closed.
type Exporter struct {
	conn     *grpc.ClientConn
	resource resource
}

var _ tracing.Exporter = (*Exporter)(nil)

// New returns an Exporter. It connects when there are spans to send.
func New(c Config) (*Exporter, error) {
	creds := insecure.NewCredentials()
	if c.TLS != nil {
		creds = credentials.NewTLS(c.TLS)
		if c.Current != nil {
			creds = &currentTLS{creds, c.TLS, c.Current}
		}
	}
	connecting := grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: connectTime}
	connecting.Backoff.MaxDelay = reconnectPause
	conn, err := grpc.NewClient("dns:///"+c.Endpoint,
		grpc.WithTransportCredentials(creds),
		grpc.WithConnectParams(connecting),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingPause, Timeout: pingTime}),
		grpc.WithNoProxy(),              // HTTPS_PROXY applies to stores only
		grpc.WithDisableServiceConfig(), // the DNS must not be able to change how the collector is called
		grpc.WithUserAgent("secretbroker"),
	)
	if err != nil {
		return nil, fmt.Errorf("otlp: %w", err)
	}
	return &Exporter{conn: conn, resource: resourceOf(c)}, nil
}

// currentTLS is TLS with a new configuration for each connection.
type currentTLS struct {
	credentials.TransportCredentials // the credentials of base
	base                             *tls.Config
	current                          func(*tls.Config) *tls.Config
}

// ClientHandshake implements credentials.TransportCredentials.
func (c *currentTLS) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return credentials.NewTLS(c.current(c.base)).ClientHandshake(ctx, authority, raw)
}

// Clone implements credentials.TransportCredentials. A copy would share everything.
func (c *currentTLS) Clone() credentials.TransportCredentials { return c }

// Close closes the connection and ends a current Export.
func (e *Exporter) Close() error { return e.conn.Close() }

// Export sends spans in one request. See tracing.Exporter.
func (e *Exporter) Export(ctx context.Context, spans []tracing.Span) (rejected int, err error) {
	var answer collectorpb.ExportTraceServiceResponse
	if err := e.conn.Invoke(ctx, export, e.resource.request(spans), &answer); err != nil {
		return 0, exportError(err)
	}
	return int(answer.GetPartialSuccess().GetRejectedSpans()), nil
}

// exportError returns the error of a request, as a tracing.RetryError if the request may be
// retried according to the specification (OTLP/gRPC response, failures). It contains only the
// beginning of the collector's text.
func exportError(err error) error {
	st := status.Convert(err)
	text := st.Message()
	if len(text) > maxErrorText {
		text = text[:maxErrorText]
	}
	failure := fmt.Errorf("otlp: cannot send spans to the collector: %v: %q", st.Code(), text)
	var after time.Duration
	for _, d := range st.Details() {
		if retry, ok := d.(*errdetails.RetryInfo); ok {
			after = retry.GetRetryDelay().AsDuration()
		}
	}
	switch st.Code() {
	case codes.Canceled, codes.DeadlineExceeded, codes.Aborted, codes.OutOfRange, codes.Unavailable, codes.DataLoss:
	case codes.ResourceExhausted:
		if after == 0 { // retryable only if the collector sets a delay
			return failure
		}
	default:
		return failure
	}
	return &tracing.RetryError{Err: failure, After: after}
}
