package server

import (
	"context"
	"time"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/admission"
)

// stream is the interceptor of the few streaming methods (Watch, reflection, health). They
// need no deadline: they end with their connection, or at shutdown.
func (ic *interceptor) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	start := time.Now()
	c := &call{requestID: newRequestID()}
	defer func() { ic.metrics.of(info.FullMethod).observe(status.Code(err), time.Since(start)) }()
	defer func() {
		if p := recover(); p != nil {
			err = ic.panicked(ss.Context(), info.FullMethod, c, p)
		}
	}()
	var id peerIdentity
	if c.who, err = identityOf(ss.Context(), &id); err != nil {
		return ic.refuse(ss.Context(), info.FullMethod, c, err)
	}
	if id.conn != nil {
		id.conn.traffic.handlers.Add(1)
		id.conn.traffic.streaming.Add(1)
		defer id.conn.traffic.handlers.Add(-1)
		defer id.conn.traffic.streaming.Add(-1)
		if info.IsClientStream {
			id.conn.traffic.openEnded.Add(1)
			defer id.conn.traffic.openEnded.Add(-1)
		}
	}
	at := ic.reflection
	switch info.FullMethod {
	case healthpb.Health_Watch_FullMethodName:
		at = ic.watches
	case secretbrokerv1.WatchService_Watch_FullMethodName:
		at = ic.rotations
	}
	if err := ic.admit(&id, at, ic.rules[info.FullMethod], start); err != nil {
		return ic.refuse(ss.Context(), info.FullMethod, c, err)
	}
	defer at.Release(string(c.who.Principal))
	ctx, cancel := context.WithCancel(ss.Context())
	defer cancel()
	defer context.AfterFunc(ic.closing, cancel)()
	ctx = context.WithValue(context.WithValue(ctx, callKey{}, c), connectionKey{}, id.conn)
	ending := &endingStream{ServerStream: ss, ctx: ctx}
	if at == ic.rotations {
		ending.call, ending.conn = c, id.conn
		ending.turn = &callTurn{queue: ic.heavy, caller: string(c.who.Principal), over: at.over[admission.CPU]}
		c.who.Turn = ending.turn
		defer ending.turn.Leave()
	}
	return handler(srv, ending)
}

// endingStream is a stream that ends at shutdown. Otherwise a client that watches the
// broker's health would delay the shutdown.
type endingStream struct {
	grpc.ServerStream
	ctx context.Context
	// turn, if not nil, is the slot of a call of WatchService: opening a stream takes much
	// CPU time, and after an outage many are opened at once.
	turn *callTurn
	call *call
	conn *connection // nil if it is not known
}

func (s *endingStream) Context() context.Context { return s.ctx }

// RecvMsg decodes the next message. A large request waits for a slot before that, unless
// the connection has an incomplete request: the slot would wait for the peer.
func (s *endingStream) RecvMsg(m any) error {
	if s.turn != nil && s.conn != nil && s.conn.traffic.incomplete.Load() == 0 && s.conn.traffic.large.Load() {
		if err := s.turn.Take(s.ctx); err != nil {
			return statusOf(err, s.call.requestID).Err()
		}
	}
	return s.ServerStream.RecvMsg(m)
}
