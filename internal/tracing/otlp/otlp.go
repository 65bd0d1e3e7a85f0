// Package otlp owns the way of spans to a collector: OTLP over gRPC, as of
// OpenTelemetry's protocol specification 1.x, in the project's own generated
// messages.
//
// It decides neither what is traced nor when spans are sent; tracing does. It reads
// no environment variables.
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

// export is the one method that is called. The slim module of messages has no
// client; the other one brings an HTTP gateway.
const export = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"

const (
	connectTime = 5 * time.Second
	// reconnectPause is the longest pause between two attempts to connect.
	reconnectPause = 30 * time.Second
	// pingPause is never over while an Export lasts. That there is one at all makes
	// the system end a connection whose packets have not been acknowledged for
	// pingTime, rather than after a quarter of an hour.
	pingPause = 5 * time.Minute
	pingTime  = 20 * time.Second
	// maxErrorText is how much of a collector's words is repeated, in bytes.
	maxErrorText = 200
)

// Config says where the collector is and who sends. Endpoint is required.
type Config struct {
	// Endpoint is host:port.
	Endpoint string
	// TLS is how the collector proves itself, by the endpoint's host if ServerName is
	// empty; nil is plaintext.
	TLS *tls.Config
	// Current, if not nil, makes the configuration of one connection of TLS, with the
	// authorities and the certificate as they are then.
	Current func(*tls.Config) *tls.Config
	// ServiceName, ServiceVersion and HostName are told of the sender if they are
	// not empty.
	ServiceName, ServiceVersion, HostName string
}

// Exporter sends spans to a collector. It must be closed.
type Exporter struct {
	conn     *grpc.ClientConn
	resource resource
}

var _ tracing.Exporter = (*Exporter)(nil)

// New makes an Exporter, which connects when there is something to send.
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
		grpc.WithNoProxy(),              // HTTPS_PROXY is for the stores
		grpc.WithDisableServiceConfig(), // the operator of the DNS must not influence how the collector is called
		grpc.WithUserAgent("secretbroker"),
	)
	if err != nil {
		return nil, fmt.Errorf("otlp: %w", err)
	}
	return &Exporter{conn: conn, resource: resourceOf(c)}, nil
}

// currentTLS is TLS whose configuration is made for each connection.
type currentTLS struct {
	credentials.TransportCredentials // of base
	base                             *tls.Config
	current                          func(*tls.Config) *tls.Config
}

// ClientHandshake implements credentials.TransportCredentials.
func (c *currentTLS) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return credentials.NewTLS(c.current(c.base)).ClientHandshake(ctx, authority, raw)
}

// Clone implements credentials.TransportCredentials; there is nothing that a copy could
// change.
func (c *currentTLS) Clone() credentials.TransportCredentials { return c }

// Close ends the connection, and with it an Export under way.
func (e *Exporter) Close() error { return e.conn.Close() }

// Export sends spans in one request. See tracing.Exporter.
func (e *Exporter) Export(ctx context.Context, spans []tracing.Span) (rejected int, err error) {
	var answer collectorpb.ExportTraceServiceResponse
	if err := e.conn.Invoke(ctx, export, e.resource.request(spans), &answer); err != nil {
		return 0, exportError(err)
	}
	return int(answer.GetPartialSuccess().GetRejectedSpans()), nil
}

// exportError says whether it may be tried again, as the specification has it
// (OTLP/gRPC response, failures), and repeats only the beginning of what the
// collector says.
func exportError(err error) error {
	st := status.Convert(err)
	text := st.Message()
	if len(text) > maxErrorText {
		text = text[:maxErrorText]
	}
	failure := fmt.Errorf("otlp: the collector or the way to it: %v: %q", st.Code(), text)
	var after time.Duration
	for _, d := range st.Details() {
		if retry, ok := d.(*errdetails.RetryInfo); ok {
			after = retry.GetRetryDelay().AsDuration()
		}
	}
	switch st.Code() {
	case codes.Canceled, codes.DeadlineExceeded, codes.Aborted, codes.OutOfRange, codes.Unavailable, codes.DataLoss:
	case codes.ResourceExhausted:
		if after == 0 { // only if the collector says when
			return failure
		}
	default:
		return failure
	}
	return &tracing.RetryError{Err: failure, After: after}
}
