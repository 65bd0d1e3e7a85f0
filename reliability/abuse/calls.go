package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"net"
	"os"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/secretbroker/secretbroker/bench/testbed"
	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// callTimeout is the time after which a call counts as unanswered.
const callTimeout = 3 * time.Second

// identity is a client certificate in files.
type identity struct{ CertFile, KeyFile string }

// tlsConfig returns the TLS configuration of the caller.
func (id identity) tlsConfig(caFile string) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(id.CertFile, id.KeyFile)
	if err != nil {
		return nil, err
	}
	return testbed.ClientTLS(caFile, cert)
}

// callTask is the task of a process with well-behaved callers: it makes their calls at their
// rates, whatever the results are, and prints each as a call in JSON.
type callTask struct {
	Addr, CAFile string
	Callers      []caller
}

// caller is a well-behaved caller.
type caller struct {
	Name        string
	Identity    identity
	Integration string
	References  []string // each call uses the next one
	PerSecond   float64
	// Fresh makes each call read the store.
	Fresh bool
	// Reconnect makes a new connection for each call, from Source, over a simulated
	// network with a round-trip time of RoundTrip.
	Reconnect bool
	Source    string
	RoundTrip time.Duration
}

// call is the result of a call.
type call struct {
	Caller string        `json:"c"`
	Due    time.Time     `json:"due"`
	Took   time.Duration `json:"took"`             // time since the call was due
	Reason string        `json:"reason,omitempty"` // "" if it was answered
}

func makeCalls(ctx context.Context, t callTask) error {
	results := make(chan call, 1024)
	var callers, writer sync.WaitGroup
	writer.Go(func() {
		out := bufio.NewWriter(os.Stdout)
		enc := json.NewEncoder(out)
		for r := range results {
			_ = enc.Encode(r) // fails if the suite has ended
			_ = out.Flush()
		}
	})
	for _, c := range t.Callers {
		conn, err := c.connect(t)
		if err != nil {
			return err
		}
		defer conn.Close()
		callers.Go(func() { c.run(ctx, t, conn, results) })
	}
	callers.Wait()
	close(results)
	writer.Wait()
	return nil
}

// connect makes the caller's connection. gRPC makes it again when it breaks, as in the Go
// client.
func (c *caller) connect(t callTask) (*grpc.ClientConn, error) {
	config, err := c.Identity.tlsConfig(t.CAFile)
	if err != nil {
		return nil, err
	}
	return grpc.NewClient("passthrough:///"+t.Addr,
		grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: callTimeout,
		}),
		grpc.WithContextDialer(c.dial))
}

// run makes calls until ctx ends, and waits for the active ones.
func (c *caller) run(ctx context.Context, t callTask, conn *grpc.ClientConn, results chan<- call) {
	var underWay sync.WaitGroup
	defer underWay.Wait()
	pause := time.Duration(float64(time.Second) / c.PerSecond)
	for n, due := 0, time.Now(); ; n, due = n+1, due.Add(pause) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(due)):
		}
		underWay.Go(func() {
			reason := c.call(t, conn, c.References[n%len(c.References)], due)
			results <- call{c.Name, due, time.Since(due), reason}
		})
	}
}

// call makes one call and returns the reason of its failure, "" if it was answered.
func (c *caller) call(t callTask, conn *grpc.ClientConn, reference string, due time.Time) string {
	ctx, cancel := context.WithDeadline(context.Background(), due.Add(callTimeout))
	defer cancel()
	if c.Reconnect {
		var err error
		if conn, err = c.connect(t); err != nil {
			return err.Error()
		}
		defer conn.Close()
	}
	req := &secretbrokerv1.ResolveRequest{IntegrationId: c.Integration, Connector: c.Name, Configs: map[string]string{"password": reference}}
	if c.Fresh {
		req.MaxAge = durationpb.New(0)
	}
	// A caller that reconnects gets an error if its connection fails; others wait.
	_, err := secretbrokerv1.NewResolverServiceClient(conn).Resolve(ctx, req, grpc.WaitForReady(!c.Reconnect))
	return reasonOf(err)
}

// reasonOf returns the broker's reason for a refusal, or else gRPC's code.
func reasonOf(err error) string {
	if err == nil {
		return ""
	}
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return status.Code(err).String()
}

func (c *caller) dial(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := dialFrom(ctx, c.Source, addr)
	if err != nil || c.RoundTrip == 0 {
		return conn, err
	}
	return &farConn{Conn: conn, roundTrip: c.RoundTrip}, nil
}

// dialFrom connects from a source address, if that is not empty.
func dialFrom(ctx context.Context, source, addr string) (net.Conn, error) {
	d := net.Dialer{}
	if source != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(source)}
	}
	return d.DialContext(ctx, "tcp", addr)
}

// farConn simulates a distant peer for the TLS handshake: its first answer is delayed by a
// round trip.
type farConn struct {
	net.Conn
	roundTrip time.Duration
	first     sync.Once
}

func (c *farConn) Read(p []byte) (int, error) {
	c.first.Do(func() { time.Sleep(c.roundTrip) })
	return c.Conn.Read(p)
}
