package main

import (
	"runtime/debug"

	"google.golang.org/grpc"

	"github.com/secretbroker/secretbroker/internal/wirecodec"
)

// tuning returns the settings of the broker's server.
func tuning() []grpc.ServerOption {
	debug.SetGCPercent(400)
	return []grpc.ServerOption{grpc.NumStreamWorkers(256), grpc.ForceServerCodecV2(wirecodec.New())}
}
