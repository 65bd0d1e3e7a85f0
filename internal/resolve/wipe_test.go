package resolve_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/procmem"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// plantingStore returns secrets with a value of which the process has no other copy.
type plantingStore struct {
	plain, encoded []byte // masked
}

// newPlantingStore generates a value in pieces of three bytes, so that the test never has a
// copy of it. A whole value in a local variable would be on the goroutine's stack, and when the
// runtime moves a stack, it does not overwrite the old one. The value is longer than the
// registers: if Go or the kernel interrupts a copy, it saves the registers on a stack, where
// they may stay for a while.
func newPlantingStore() *plantingStore {
	s := &plantingStore{}
	for range 200 {
		var piece [3]byte
		for i := range piece {
			piece[i] = 'A' + byte(rand.IntN(26))
		}
		var encoded [4]byte
		base64.StdEncoding.Encode(encoded[:], piece[:])
		s.plain = append(s.plain, procmem.Mask(piece[:])...)
		s.encoded = append(s.encoded, procmem.Mask(encoded[:])...)
	}
	return s
}

func (s *plantingStore) Fetch(_ context.Context, _ *integration.Integration, ref secret.Ref) (*secret.Secret, error) {
	fill := func(before string, masked []byte, after string) []byte {
		b := make([]byte, 0, len(before)+len(masked)+len(after))
		b = append(b, before...)
		for _, c := range masked {
			b = append(b, ^c)
		}
		return append(b, after...)
	}
	var b []byte
	switch ref.Name {
	case "db-plain":
		b = fill("", s.plain, "")
	case "db-json":
		b = fill(`{"other":"x","o":{"in": 1}, "k":"`, s.plain, `\u0041"}`)
	case "db-base64":
		b = fill("", s.encoded, "")
	case "db-broken64":
		b = fill("", s.encoded, "!")
	case "db-twice":
		b = fill(`{"k":1,"k":"`, s.plain, `"}`)
	default:
		return nil, secret.Errorf(secret.ReasonSecretNotFound, "no such secret")
	}
	return secret.New(version, time.Now(), time.Time{}, b), nil
}

// newPlantingBench returns a bench with a plantingStore.
func newPlantingBench(t *testing.T, ttl time.Duration) (*bench, *plantingStore) {
	store := newPlantingStore()
	return newBench(t, func(c *resolve.Config) { c.Stores, c.CacheTTL = store, ttl }), store
}

// copies returns the number of copies of the value in memory, encoded or not.
func (s *plantingStore) copies(t *testing.T) int {
	t.Helper()
	n, err := procmem.Count(os.Getpid(), s.plain, s.encoded)
	if errors.Is(err, procmem.ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return n[0] + n[1]
}

// TestNothingIsLeftOfACall: after a call has ended in any way, the memory of the process
// contains none of its values, not even as garbage, unless they are cached.
func TestNothingIsLeftOfACall(t *testing.T) {
	configs := func(kv ...string) resolve.Request {
		req := resolve.Request{Configs: make(map[string]string)}
		for i := 0; i < len(kv); i += 2 {
			req.Configs[kv[i]] = vault + "::" + kv[i+1]
		}
		return req
	}
	everything := configs("a", "db-plain", "b", "db-json::k", "c", "db-json", "d", "db-json::o", "e", "db-base64?decode=base64", "f", "db-base64")
	broken := configs("a", "db-plain", "b", "db-json::k", "c", "db-json::absent", "d", "db-broken64?decode=base64", "e", "db-twice::k",
		"f", "db-plain::k", "g", "db-missing")
	partial := broken
	partial.AllowPartial = true
	for name, tt := range map[string]struct {
		req      resolve.Request
		check    bool
		audit    error
		answered int // copies in the answer, counted once each
	}{
		"answered":            {req: everything, answered: 5},
		"partly answered":     {req: partial, answered: 2},
		"withheld":            {req: broken},
		"not recorded":        {req: everything, audit: errors.New("disk full")},
		"checked":             {req: everything, check: true},
		"checked, not all ok": {req: broken, check: true},
		"check not recorded":  {req: everything, check: true, audit: errors.New("disk full")},
	} {
		t.Run(name, func(t *testing.T) {
			b, store := newPlantingBench(t, 1) // nothing is kept
			b.broken.err = tt.audit
			req := tt.req
			req.ID, req.IntegrationID = "request-1", "cspi"
			who := resolve.Caller{Principal: worker}
			if tt.check {
				_, _ = b.Check(t.Context(), who, req)
			} else if res, err := b.Resolve(t.Context(), who, req); err == nil {
				b.cache.Close() // waits for the loads to end
				if n := store.copies(t); n != tt.answered {
					t.Errorf("%d copies in the answer, want %d", n, tt.answered)
				}
				res.Wipe()
				for i := range res.Configs {
					if !wiped(res.Configs[i].Value) {
						t.Errorf("%s is not wiped", res.Configs[i].Config)
					}
				}
			} else if tt.answered > 0 {
				t.Fatal(err)
			}
			b.cache.Close()
			if n := store.copies(t); n != 0 {
				t.Errorf("%d copies remain", n)
			}
		})
	}
}

func wiped(v secret.Value) (gone bool) {
	defer func() { gone = recover() != nil }()
	v.Len()
	return false
}

// TestOnlyTheCacheKeepsAValue: a cached value exists once, however often it was returned.
func TestOnlyTheCacheKeepsAValue(t *testing.T) {
	b, store := newPlantingBench(t, time.Hour)
	for range 20 {
		res, err := b.call(worker, resolve.Request{Configs: map[string]string{"a": vault + "::db-json::k", "b": vault + "::db-json"}})
		if err != nil {
			t.Fatal(err)
		}
		res.Wipe()
	}
	if n := store.copies(t); n != 1 {
		t.Errorf("%d copies, want the cache's", n)
	}
	b.cache.Close()
	if n := store.copies(t); n != 0 {
		t.Errorf("%d copies after the cache was closed", n)
	}
}

// TestAnswersAreWipedAlone: each answer has its own copy, so wiping one leaves others intact.
func TestAnswersAreWipedAlone(t *testing.T) {
	b := newBench(t)
	ask := func() *resolve.Result {
		res, err := b.call(worker, resolve.Request{Configs: map[string]string{"p": vault + "::db-secret::password", "w": vault + "::db-secret"}})
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	first, second := ask(), ask()
	want := first.Configs[1].Value.RevealBytes()
	first.Wipe()
	if got := second.Configs[1].Value.RevealBytes(); !bytes.Equal(got, want) {
		t.Errorf("the second answer is %q, want %q", got, want)
	}
	if got := ask().Configs[0].Value.Reveal(); got != "canary-password" {
		t.Errorf("a later answer is %q", got)
	}
}
