package cache

import (
	"context"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/secret"
)

var benchKey = Key{
	Integration: "payments-prod",
	Revision:    "9f2c4a7be0d13365",
	Store:       "https://payments-prod.vault.azure.net",
	Name:        "sqlserver-db-secret",
}

func benchCache(b *testing.B) (*Cache, Request, Loader) {
	c, err := New(Config{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(c.Close)
	load := func(context.Context) (*secret.Secret, error) {
		return secret.New("v1", time.Now(), time.Time{}, []byte("a value of some length")), nil
	}
	return c, Request{Key: benchKey, TTL: time.Hour}, load
}

// BenchmarkGet includes, for values that are kept, the time until ristretto has stored the
// value and returns it.
func BenchmarkGet(b *testing.B) {
	for name, ttl := range map[string]time.Duration{"hit": time.Hour, "miss": 0, "miss, kept": time.Hour} {
		b.Run(name, func(b *testing.B) {
			c, req, load := benchCache(b)
			req.TTL = ttl
			b.ReportAllocs()
			for b.Loop() {
				res, err := c.Get(context.Background(), req, load)
				if err != nil {
					b.Fatal(err)
				}
				res.Secret.Release()
				if name == "miss, kept" {
					c.store.Del(c.hash(&req.Key))
				}
			}
		})
	}
}

// BenchmarkHitToText measures one config of a call that is answered from memory, in this
// package and in package secret, up to the string in the reply.
func BenchmarkHitToText(b *testing.B) {
	for _, doc := range documents {
		b.Run(doc.name, func(b *testing.B) {
			c, req, _ := benchCache(b)
			fill(b, c, 1, doc.text, doc.key)
			req.Key.Name = "sqlserver-db-secret-0"
			b.ReportAllocs()
			for b.Loop() {
				hitToText(b, c, &req, doc.key)
			}
		})
	}
}

func BenchmarkHitToTextParallel(b *testing.B) {
	doc := documents[1]
	for _, secrets := range []int{1, 64} {
		b.Run(strconv.Itoa(secrets), func(b *testing.B) {
			c, req, _ := benchCache(b)
			fill(b, c, secrets, doc.text, doc.key)
			b.ReportAllocs()
			var workers atomic.Int64
			b.RunParallel(func(pb *testing.PB) {
				req, n := req, int(workers.Add(1))
				req.Key.Name = "sqlserver-db-secret-" + strconv.Itoa(n%secrets)
				for pb.Next() {
					hitToText(b, c, &req, doc.key)
				}
			})
		})
	}
}

func hitToText(b *testing.B, c *Cache, req *Request, key string) {
	res, ok := c.Hit(req)
	if !ok {
		b.Error("not a hit")
		return
	}
	v, err := res.Secret.Select(key)
	if err != nil || v.Reveal() == "" {
		b.Error(err)
	}
	v.Wipe()
	res.Secret.Release()
}
