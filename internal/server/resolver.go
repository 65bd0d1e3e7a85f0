package server

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Resolver is the use case behind ResolverService; resolve.Resolver is one.
type Resolver interface {
	Resolve(ctx context.Context, who resolve.Caller, req resolve.Request) (*resolve.Result, error)
	Check(ctx context.Context, who resolve.Caller, req resolve.Request) ([]resolve.Report, error)
}

// resolverService translates between the wire format and the use case, and does nothing
// else.
type resolverService struct {
	secretbrokerv1.UnimplementedResolverServiceServer
	resolver Resolver
	log      *slog.Logger
	// failures limits the log lines about configs that could not be resolved.
	failures *refusalLog
}

func (s *resolverService) Resolve(ctx context.Context, req *secretbrokerv1.ResolveRequest) (*secretbrokerv1.ResolveResponse, error) {
	c := callOf(ctx)
	in := requestOf(req, c)
	in.AllowPartial = req.GetAllowPartial()
	res, err := s.resolver.Resolve(ctx, c.who, in)
	if err != nil {
		s.logFailure(ctx, c, in.IntegrationID, err)
		return nil, statusOf(err, c.requestID).Err()
	}
	defer res.Wipe()
	if len(res.Errors) > 0 {
		s.logFailure(ctx, c, in.IntegrationID, &resolve.Failure{Configs: res.Errors})
	}
	return responseOf(res, c.requestID, time.Now()), nil
}

func (s *resolverService) Check(ctx context.Context, req *secretbrokerv1.CheckRequest) (*secretbrokerv1.CheckResponse, error) {
	c := callOf(ctx)
	in := requestOf(req, c)
	reports, err := s.resolver.Check(ctx, c.who, in)
	if err != nil {
		s.logFailure(ctx, c, in.IntegrationID, err)
		return nil, statusOf(err, c.requestID).Err()
	}
	out := &secretbrokerv1.CheckResponse{
		Configs:   make(map[string]*secretbrokerv1.ConfigReport, len(reports)),
		Ok:        true,
		RequestId: c.requestID,
	}
	now := time.Now()
	var failed resolve.Failure
	for i := range reports {
		out.Configs[reports[i].Config] = reportOf(&reports[i], now)
		if e := reports[i].Err; e != nil {
			out.Ok = false
			failed.Configs = append(failed.Configs, resolve.ConfigError{Config: reports[i].Config, Err: e})
		}
	}
	s.logFailure(ctx, c, in.IntegrationID, &failed)
	return out, nil
}

// askedFor is the common part of ResolveRequest and CheckRequest.
type askedFor interface {
	GetIntegrationId() string
	GetConfigs() map[string]string
	GetMaxAge() *durationpb.Duration
	GetConnector() string
	GetNotReadBefore() *timestamppb.Timestamp
}

// farFuture replaces a not_read_before that is no time, so that the use case refuses and
// records the call.
var farFuture = time.Date(9999, time.December, 31, 0, 0, 0, 0, time.UTC)

func requestOf(req askedFor, c *call) resolve.Request {
	in := resolve.Request{
		ID:            c.requestID,
		Trace:         c.trace,
		IntegrationID: req.GetIntegrationId(),
		Configs:       req.GetConfigs(),
		Connector:     req.GetConnector(),
	}
	if req.GetMaxAge() != nil {
		maxAge := req.GetMaxAge().AsDuration()
		if !req.GetMaxAge().IsValid() {
			maxAge = -1 // the use case refuses it and records the refusal
		}
		in.MaxAge = &maxAge
	}
	if t := req.GetNotReadBefore(); t != nil {
		in.NotReadBefore = t.AsTime()
		if !t.IsValid() {
			in.NotReadBefore = farFuture
		}
	}
	return in
}

func responseOf(res *resolve.Result, requestID string, now time.Time) *secretbrokerv1.ResolveResponse {
	out := &secretbrokerv1.ResolveResponse{
		RequestId: requestID,
		Configs:   make(map[string]*secretbrokerv1.ResolvedConfig, len(res.Configs)),
	}
	// One allocation for all configs.
	configs := make([]struct {
		config        secretbrokerv1.ResolvedConfig
		fetch, expire timestamppb.Timestamp
	}, len(res.Configs))
	for i := range res.Configs {
		c, rc := &res.Configs[i], &configs[i].config
		rc.Version, rc.Stale = c.Version, c.Stale
		rc.FetchTime, rc.CacheExpireTime = &configs[i].fetch, &configs[i].expire
		setTime(rc.FetchTime, c.FetchedAt)
		setTime(rc.CacheExpireTime, c.ExpiresAt)
		if !c.SecretExpiresAt.IsZero() {
			rc.SecretExpireTime = timestamppb.New(c.SecretExpiresAt)
			rc.TimeLeft = durationpb.New(c.SecretExpiresAt.Sub(now))
		}
		if c.Decoded {
			rc.DecodedValue = c.Value.RevealBytes()
		}
		if !c.Decoded || c.Value.IsText() {
			rc.Value = c.Value.Reveal()
		}
		out.Configs[c.Config] = rc
	}
	if len(res.Errors) > 0 {
		out.Errors = make(map[string]*secretbrokerv1.ConfigError, len(res.Errors))
	}
	for _, e := range res.Errors {
		out.Errors[e.Config] = configErrorOf(e.Err)
	}
	return out
}

// setTime sets to to t, without the allocation of timestamppb.New.
func setTime(to *timestamppb.Timestamp, t time.Time) {
	to.Seconds, to.Nanos = t.Unix(), int32(t.Nanosecond()) //nolint:gosec // below 1e9
}

func configErrorOf(e *secret.Error) *secretbrokerv1.ConfigError {
	ce := &secretbrokerv1.ConfigError{Reason: string(e.Reason), Message: e.Message}
	if delay := retryAfter(e); delay > 0 {
		ce.RetryDelay = durationpb.New(delay)
	}
	return ce
}

func reportOf(r *resolve.Report, now time.Time) *secretbrokerv1.ConfigReport {
	out := &secretbrokerv1.ConfigReport{
		Store:        r.Ref.Store,
		Secret:       r.Ref.Name,
		Version:      r.Version,
		JsonKey:      r.Ref.Key,
		JsonKeyFound: r.HasKey,
		LengthClass:  lengthClassOf(r.Length),
	}
	if !r.FetchedAt.IsZero() {
		out.FetchTime = timestamppb.New(r.FetchedAt)
	}
	if !r.ExpiresAt.IsZero() {
		out.SecretExpireTime = timestamppb.New(r.ExpiresAt)
		out.TimeLeft = durationpb.New(r.ExpiresAt.Sub(now))
	}
	if r.Err != nil {
		out.Error = configErrorOf(r.Err)
	}
	for _, w := range r.Warnings {
		out.Warnings = append(out.Warnings, &secretbrokerv1.ConfigWarning{Warning: string(w.Code), Message: w.Message})
	}
	return out
}

// lengthClassOf returns a class of lengths that is too coarse to reveal the value.
func lengthClassOf(n int) secretbrokerv1.LengthClass {
	switch {
	case n < 0:
		return secretbrokerv1.LengthClass_LENGTH_CLASS_UNSPECIFIED
	case n == 0:
		return secretbrokerv1.LengthClass_LENGTH_CLASS_EMPTY
	case n < 8:
		return secretbrokerv1.LengthClass_LENGTH_CLASS_TINY
	case n < 64:
		return secretbrokerv1.LengthClass_LENGTH_CLASS_SHORT
	case n < 1024:
		return secretbrokerv1.LengthClass_LENGTH_CLASS_MEDIUM
	default:
		return secretbrokerv1.LengthClass_LENGTH_CLASS_LONG
	}
}

// logFailure logs failures whose cause the caller does not get: each kind of failure once
// per call, and only a limited number per second. Plain refusals are only in the audit log.
func (s *resolverService) logFailure(ctx context.Context, c *call, integration string, err error) {
	type kind struct {
		reason  secret.Reason
		message string
	}
	if !resolve.ValidID(integration) {
		integration = "" // it may be any text of the caller
	}
	configs := make(map[kind][]string)
	failures := failuresOf(err)
	for _, f := range failures {
		k := kind{f.Err.Reason, f.Err.Message}
		configs[k] = append(configs[k], f.Config)
	}
	for _, f := range failures {
		k := kind{f.Err.Reason, f.Err.Message}
		names := configs[k]
		delete(configs, k)
		level := slog.LevelWarn
		if k.reason == secret.ReasonInternal || k.reason == secret.ReasonAuditUnavailable {
			level = slog.LevelError
		}
		if names == nil || f.Err.Cause == nil && level < slog.LevelError {
			continue
		}
		more, ok := s.failures.next()
		if !ok {
			continue
		}
		s.log.LogAttrs(ctx, level, "configs could not be resolved",
			slog.String("request_id", c.requestID),
			slog.String("integration_id", integration),
			slog.String("configs", strings.Join(names, ",")),
			slog.String("reason", string(k.reason)),
			slog.String("message", k.message),
			slog.Any("cause", f.Err.Cause),
			slog.Int64("more_since_last", more))
	}
}
