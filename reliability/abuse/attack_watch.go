package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"google.golang.org/grpc"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// watchRequest watches n secrets that do not exist, of which no other stream has any. The names
// and versions are as long as they may be.
func (a *attacker) watchRequest(n int) *secretbrokerv1.WatchRequest {
	set := &secretbrokerv1.WatchSet{IntegrationId: a.Integration, Connector: strings.Repeat("c", 256), Configs: make(map[string]string), KnownVersions: make(map[string]string)}
	for i := range n {
		config := fmt.Sprintf("%03d", i) + strings.Repeat("n", 253)
		set.Configs[config] = fmt.Sprintf("%s%d-%s::%s", a.Reference, rand.Uint64(), strings.Repeat("s", 90), strings.Repeat("k", 200))
		set.KnownVersions[config] = strings.Repeat("v", 256)
	}
	return &secretbrokerv1.WatchRequest{Sets: []*secretbrokerv1.WatchSet{set}}
}

// attackWatchOpen opens streams of 1,000 secrets that do not exist, and ends them shortly
// afterwards without reading.
func attackWatchOpen(ctx context.Context, a *attacker) {
	conn := a.dial()
	defer conn.Close()
	each(4, func(int) {
		again(ctx, time.Millisecond, func() {
			streaming, cancel := context.WithTimeout(ctx, time.Duration(25+rand.IntN(100))*time.Millisecond)
			defer cancel()
			if _, err := secretbrokerv1.NewWatchServiceClient(conn).Watch(streaming, a.watchRequest(1000)); err != nil {
				a.counts.add(reasonOf(err), 1)
				return
			}
			a.counts.add("streams", 1)
			<-streaming.Done()
		})
	})
}

// attackWatchHold opens as many streams as it can and keeps them. It reads the first message
// of each. Their number of items is small, so that the broker's own memory of a stream counts
// most.
func attackWatchHold(ctx context.Context, a *attacker) {
	conn := a.dial()
	defer conn.Close()
	each(250, func(int) {
		for ctx.Err() == nil && !a.keep(ctx, conn) {
			pause(ctx, time.Duration(500+rand.IntN(1000))*time.Millisecond)
		}
		<-ctx.Done()
	})
}

// keep opens a stream, reads its first message, and reports whether the broker keeps it.
func (a *attacker) keep(ctx context.Context, conn *grpc.ClientConn) bool {
	stream, err := secretbrokerv1.NewWatchServiceClient(conn).Watch(ctx, a.watchRequest(2))
	if err == nil {
		_, err = stream.Recv()
	}
	if err == nil {
		a.counts.add("streams", 1)
	} else if ctx.Err() == nil {
		a.counts.add(reasonOf(err), 1)
	}
	return err == nil
}

// attackWatchLarge makes calls whose requests of nearly 1 MiB have as many known versions as
// fit, all without a config.
func attackWatchLarge(ctx context.Context, a *attacker) {
	set := &secretbrokerv1.WatchSet{IntegrationId: a.Integration, Configs: map[string]string{"password": a.Reference + "1"}, KnownVersions: make(map[string]string)}
	for i := range 70_000 {
		set.KnownVersions[fmt.Sprint(i)] = "v"
	}
	req := &secretbrokerv1.WatchRequest{Sets: []*secretbrokerv1.WatchSet{set}}
	a.call(ctx, 4, func(ctx context.Context, conn *grpc.ClientConn) error {
		stream, err := secretbrokerv1.NewWatchServiceClient(conn).Watch(ctx, req)
		if err == nil {
			_, err = stream.Recv()
		}
		return err
	})
}
