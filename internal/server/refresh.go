package server

import (
	"context"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/replica"
	"github.com/secretbroker/secretbroker/internal/resolve"
)

// coverages are the kinds of coverage on the wire.
var coverages = map[replica.CoverageState]secretbrokerv1.RefreshResponse_Coverage{
	replica.AllReplicas:  secretbrokerv1.RefreshResponse_COVERAGE_ALL_REPLICAS,
	replica.SomeReplicas: secretbrokerv1.RefreshResponse_COVERAGE_SOME_REPLICAS,
	replica.ThisReplica:  secretbrokerv1.RefreshResponse_COVERAGE_THIS_REPLICA,
	replica.Unknown:      secretbrokerv1.RefreshResponse_COVERAGE_UNKNOWN,
}

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
		Coverage:  coverages[res.Coverage.State],
		RequestId: c.requestID,
	}
	for _, l := range res.Coverage.Behind {
		out.Unacknowledged = append(out.Unacknowledged, &secretbrokerv1.Replica{Id: l.ID, Name: l.Name, LastSeenTime: timeOf(l.SeenAt)})
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
