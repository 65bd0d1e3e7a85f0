package server

import (
	"context"
	"time"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/admission"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/wirecodec"
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
		if !ic.hasWatchRoom(&id) { // before the request is decoded, which costs more than this
			return ic.refuse(ctx, info.FullMethod, c, at.refusal(&admission.Refusal{Limit: admission.Memory, RetryAfter: maxReopen}))
		}
		ending.call = c
		ending.turn = &callTurn{queue: ic.heavy, caller: string(c.who.Principal), over: at.over[admission.CPU]}
		c.who.Turn = ending.turn
		defer ending.turn.Leave()
	}
	return handler(srv, ending)
}

// hasWatchRoom reports whether there is memory for one more stream of WatchService of a
// principal.
func (ic *interceptor) hasWatchRoom(id *peerIdentity) bool {
	streams := ic.watchMemory.Account(string(id.principal))
	defer streams.Close()
	return streams.Fits(watchStreamBytes)
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
}

func (s *endingStream) Context() context.Context { return s.ctx }

// RecvMsg receives the next message. A message of WatchService waits for a slot before it is
// decoded: a request of 1 MiB may have 100,000 entries. It waits when it is complete, so that
// no slot waits for the peer.
func (s *endingStream) RecvMsg(m any) error {
	req, ok := m.(*secretbrokerv1.WatchRequest)
	if s.turn == nil || !ok {
		return s.ServerStream.RecvMsg(m)
	}
	var raw wirecodec.Raw
	if err := s.ServerStream.RecvMsg(&raw); err != nil {
		return err
	}
	if err := s.turn.Take(s.ctx); err != nil {
		return statusOf(err, s.call.requestID).Err()
	}
	if err := checkEntries(raw); err != nil {
		return statusOf(err, s.call.requestID).Err()
	}
	if err := proto.Unmarshal(raw, req); err != nil {
		return statusOf(secret.Errorf(secret.ReasonInvalidRequest, "the request is not a valid WatchRequest"), s.call.requestID).Err()
	}
	return nil
}

// maxWatchedConfigs is the maximum number of configs in the sets of one WatchRequest, which
// may be complete connector configurations.
const maxWatchedConfigs = 20_000

// checkEntries returns an error if a WatchRequest has too many entries to decode it.
func checkEntries(raw []byte) error {
	configs, known := 0, 0
	if !countEntries(raw, func(number protowire.Number) {
		switch number {
		case 2: // WatchSet.configs
			configs++
		case 3: // WatchSet.known_versions
			known++
		}
	}) {
		return nil // decoding fails, with a better error
	}
	switch {
	case configs > maxWatchedConfigs:
		return secret.Errorf(secret.ReasonInvalidRequest, "the sets have %d configs, the maximum is %d; open several streams", configs, maxWatchedConfigs)
	case known > resolve.MaxWatched:
		return secret.Errorf(secret.ReasonInvalidRequest, "the sets have %d known_versions, the maximum is %d; open several streams", known, resolve.MaxWatched)
	}
	return nil
}

// countEntries calls count for each field of each set of a WatchRequest. It returns false if
// the request is malformed.
func countEntries(raw []byte, count func(protowire.Number)) bool {
	for len(raw) > 0 {
		number, kind, n := protowire.ConsumeTag(raw)
		if n < 0 {
			return false
		}
		raw = raw[n:]
		if number != 1 || kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, kind, raw); n < 0 {
				return false
			}
			raw = raw[n:]
			continue
		}
		set, n := protowire.ConsumeBytes(raw)
		if n < 0 {
			return false
		}
		raw = raw[n:]
		for len(set) > 0 {
			number, _, n := protowire.ConsumeField(set)
			if n < 0 {
				return false
			}
			count(number)
			set = set[n:]
		}
	}
	return true
}
