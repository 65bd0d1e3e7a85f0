package server

import (
	"context"
	"log/slog"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Resolver is the use case behind ResolverService; resolve.Resolver is one.
type Resolver interface {
	Resolve(ctx context.Context, who resolve.Caller, req resolve.Request) (*resolve.Result, error)
}

// resolverService translates between the wire and the use case and does nothing
// else.
type resolverService struct {
	secretbrokerv1.UnimplementedResolverServiceServer
	resolver Resolver
	log      *slog.Logger
}

func (s *resolverService) Resolve(ctx context.Context, req *secretbrokerv1.ResolveRequest) (*secretbrokerv1.ResolveResponse, error) {
	c := callOf(ctx)
	in, err := requestOf(req, c.requestID)
	if err != nil {
		return nil, statusOf(err, c.requestID).Err()
	}
	res, err := s.resolver.Resolve(ctx, c.who, in)
	if err != nil {
		s.logFailure(ctx, c, in.IntegrationID, err)
		return nil, statusOf(err, c.requestID).Err()
	}
	if len(res.Errors) > 0 {
		s.logFailure(ctx, c, in.IntegrationID, &resolve.Failure{Configs: res.Errors})
	}
	return responseOf(res, c.requestID), nil
}

func requestOf(req *secretbrokerv1.ResolveRequest, requestID string) (resolve.Request, error) {
	in := resolve.Request{
		ID:            requestID,
		IntegrationID: req.GetIntegrationId(),
		Configs:       req.GetConfigs(),
		AllowPartial:  req.GetAllowPartial(),
		Connector:     req.GetConnector(),
	}
	if req.GetMaxAge() != nil {
		if err := req.GetMaxAge().CheckValid(); err != nil {
			return in, secret.Errorf(secret.ReasonInvalidRequest, "max_age is not a valid duration")
		}
		maxAge := req.GetMaxAge().AsDuration()
		in.MaxAge = &maxAge
	}
	return in, nil
}

func responseOf(res *resolve.Result, requestID string) *secretbrokerv1.ResolveResponse {
	out := &secretbrokerv1.ResolveResponse{
		RequestId: requestID,
		Configs:   make(map[string]*secretbrokerv1.ResolvedConfig, len(res.Configs)),
	}
	for i := range res.Configs {
		c := &res.Configs[i]
		out.Configs[c.Config] = &secretbrokerv1.ResolvedConfig{
			Value:      c.Value.Reveal(),
			Version:    c.Version,
			FetchTime:  timestamppb.New(c.FetchedAt),
			ExpireTime: timestamppb.New(c.ExpiresAt),
			Stale:      c.Stale,
		}
	}
	if len(res.Errors) > 0 {
		out.Errors = make(map[string]*secretbrokerv1.ConfigError, len(res.Errors))
	}
	for _, e := range res.Errors {
		ce := &secretbrokerv1.ConfigError{Reason: string(e.Err.Reason), Message: e.Err.Message}
		if delay := retryAfter(e.Err); delay > 0 {
			ce.RetryDelay = durationpb.New(delay)
		}
		out.Errors[e.Config] = ce
	}
	return out
}

// logFailure tells the operator's log of failures with a cause that the caller
// is not told. Plain refusals stand in the audit and nowhere else.
func (s *resolverService) logFailure(ctx context.Context, c call, integration string, err error) {
	logOne := func(config string, e *secret.Error) {
		level := slog.LevelWarn
		if e.Reason == secret.ReasonInternal || e.Reason == secret.ReasonAuditUnavailable {
			level = slog.LevelError
		}
		if e.Cause == nil && level < slog.LevelError {
			return
		}
		s.log.LogAttrs(ctx, level, "a config could not be resolved",
			slog.String("request_id", c.requestID),
			slog.String("integration", integration),
			slog.String("config", config),
			slog.String("reason", string(e.Reason)),
			slog.String("message", e.Message),
			slog.Any("cause", e.Cause))
	}
	for _, f := range failuresOf(err) {
		logOne(f.Config, f.Err)
	}
}
