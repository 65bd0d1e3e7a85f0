package server

import (
	"context"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/resolve"
)

func (s *watchService) Refresh(ctx context.Context, req *secretbrokerv1.RefreshRequest) (*secretbrokerv1.RefreshResponse, error) {
	c := callOf(ctx)
	res, err := s.watcher.Refresh(ctx, c.who, resolve.Request{
		ID: c.requestID, Trace: c.trace, IntegrationID: req.GetIntegrationId(), Configs: req.GetConfigs(), Connector: req.GetConnector(),
	})
	if err != nil {
		return nil, s.failed(ctx, c, err)
	}
	out := &secretbrokerv1.RefreshResponse{
		Configs:   make(map[string]*secretbrokerv1.RefreshedConfig, len(res.Configs)),
		Coverage:  secretbrokerv1.RefreshResponse_COVERAGE_THIS_REPLICA,
		RequestId: c.requestID,
	}
	for i := range res.Configs {
		rep := &res.Configs[i]
		rc := &secretbrokerv1.RefreshedConfig{Version: rep.Version, FetchTime: timeOf(rep.FetchedAt), SecretExpireTime: timeOf(rep.ExpiresAt)}
		if rep.Err != nil {
			rc.Error = configErrorOf(rep.Err)
		}
		out.Configs[rep.Config] = rc
	}
	return out, nil
}
