package main

import (
	"google.golang.org/grpc"
)

// tuning is what the broker's own server sets.
func tuning() []grpc.ServerOption { return []grpc.ServerOption{grpc.NumStreamWorkers(64)} }
