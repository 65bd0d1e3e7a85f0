package resolve

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/cache"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// fetch gets the secrets of the allowed items, each distinct one once, and selects the
// items' values. It takes secrets from the cache if it can, and reads all others
// concurrently.
func (r *Resolver) fetch(ctx context.Context, who Caller, in *integration.Integration, request *Request, items []item, firsts []int) {
	firsts = linkAliases(in, items, firsts)
	absent := firsts[:0] // reuses the part of firsts that the loop has passed
	for _, i := range firsts {
		for items[i].err != nil && items[i].next != 0 { // not allowed
			i = items[i].next
		}
		for rest := items[i].err == nil; rest; {
			req := r.cacheRequest(in, request.MaxAge, items[i].ref)
			req.ReadSince = request.readSince
			got, ok := r.cfg.Cache.Hit(&req)
			if !ok {
				absent = append(absent, i)
				break
			}
			i, rest = r.take(who.Memory, items, i, got, nil)
		}
	}
	if len(absent) == 1 {
		who.leaveTurn()
		r.read(ctx, who, in, request, items, absent[0])
	}
	if len(absent) > 1 {
		r.readAll(ctx, who, in, request, items, absent)
	}
}

// linkAliases chains the items of references that name the same secret in different ways,
// so that all of them are answered from one read. link has chained those that name it in the
// same way. Only secrets of AWS have several names: an ARN and a name at an endpoint.
func linkAliases(in *integration.Integration, items []item, firsts []int) []int {
	if in == nil || len(firsts) < 2 {
		return firsts
	}
	if _, ok := in.Settings.(integration.Aliaser); !ok {
		return firsts
	}
	kept := firsts[:0]
next:
	for _, i := range firsts {
		ref := &items[i].ref
		for _, first := range kept {
			other := &items[first].ref
			if ref.Name == other.Name && ref.Version == other.Version && in.CanonicalStore(ref.Store) == in.CanonicalStore(other.Store) {
				end := first
				for items[end].next != 0 {
					end = items[end].next
				}
				items[end].next = i
				continue next
			}
		}
		kept = append(kept, i)
	}
	return kept
}

// beginTogether is the number of reads that a call starts before it lets others run.
const beginTogether = 8

// readAll reads the secrets of several items concurrently. The call keeps its turn until all
// reads have started, because starting them takes most of their CPU time.
func (r *Resolver) readAll(ctx context.Context, who Caller, in *integration.Integration, request *Request, items []item, absent []int) {
	if err := who.takeTurn(ctx); err != nil {
		for _, i := range absent {
			r.fail(who.Memory, items, i, err)
		}
		return
	}
	var running sync.WaitGroup
	for some := range slices.Chunk(absent, beginTogether) {
		for _, i := range some {
			running.Go(func() {
				defer func() {
					if p := recover(); p != nil { // the recovery of the call's goroutine does not cover this one
						r.fail(who.Memory, items, i, fmt.Errorf("resolve: panic of type %T", p))
					}
				}()
				r.read(ctx, who, in, request, items, i)
			})
		}
		runtime.Gosched()
	}
	who.leaveTurn()
	running.Wait()
}

// ttl returns the time-to-live of an integration's values in the cache.
func (r *Resolver) ttl(in *integration.Integration) time.Duration {
	if in.CacheTTL == 0 {
		return r.cfg.CacheTTL
	}
	return in.CacheTTL
}

func (r *Resolver) cacheRequest(in *integration.Integration, maxAge *time.Duration, ref secret.Ref) cache.Request {
	req := cache.Request{
		Key: cache.Key{
			Integration: in.ID,
			Revision:    in.ReadRevision,
			Store:       in.CanonicalStore(ref.Store),
			Name:        ref.Name,
			Version:     ref.Version,
		},
		Suffix:   ref.Suffix,
		TTL:      r.ttl(in),
		MaxStale: in.CacheMaxStale,
	}
	if maxAge != nil {
		req.MaxAge, req.HasMaxAge = *maxAge, true
	}
	return req
}

// read gets the secrets of the i-th item and of the items linked to it: one secret, unless
// their references have different suffixes.
func (r *Resolver) read(ctx context.Context, who Caller, in *integration.Integration, request *Request, items []item, i int) {
	for rest := true; rest; {
		got, err := r.readOne(ctx, who, in, request, items, i)
		i, rest = r.take(who.Memory, items, i, got, err)
	}
}

// readOne gets the secret of the i-th item from its store, or joins a read of the same
// secret that is in progress. A read of the store is charged to the caller.
func (r *Resolver) readOne(ctx context.Context, who Caller, in *integration.Integration, request *Request, items []item, i int) (cache.Result, error) {
	ref := items[i].ref.Secret()
	loading := request.Trace.Load(ref.Kind, ref.Store) // the policy allowed the reference, so the integration lists the store
	callers := provider.NewCallers(string(who.Principal))
	req := r.cacheRequest(in, request.MaxAge, ref)
	req.Account, req.ReadSince = callers, request.readSince
	if req.MaxStale > 0 && r.cfg.Unresponsive != nil {
		req.Unresponsive = func() bool { return r.cfg.Unresponsive(in, ref.Store) }
	}
	got, err := r.cfg.Cache.Get(ctx, req, func(ctx context.Context) (*secret.Secret, error) {
		return r.load(loading.Begin(ctx), callers, in, ref)
	})
	loading.End(got.Source.String(), err)
	return got, err
}

// fail gives the i-th item, and the allowed items that are linked to it, the error.
func (r *Resolver) fail(memory Memory, items []item, i int, err error) {
	for rest := true; rest; {
		i, rest = r.take(memory, items, i, cache.Result{}, err)
	}
}

// load reads a secret from its store on behalf of callers. It is the body of a cache.Loader.
func (r *Resolver) load(ctx context.Context, callers *provider.Callers, in *integration.Integration, ref secret.Ref) (*secret.Secret, error) {
	s, err := r.cfg.Stores.Fetch(provider.WithCallers(ctx, callers), in, ref)
	if errors.Is(err, provider.ErrCallersShare) {
		e := secret.AsError(err)
		err = e.WithCause(fmt.Errorf("%w: %w", cache.ErrOwn, e.Cause))
	}
	if err != nil || s != nil {
		r.saw(in, ref, s, err)
	}
	if err == nil && s != nil {
		r.seen(in, ref, s)
	}
	return s, err
}

// take gives the i-th item, and the allowed items of the same secret after it, the value
// that each selects, or the error. It releases the secret. If the references of further
// items have another suffix, which may be that of another secret, take returns the first of
// these items, all linked, and true.
func (r *Resolver) take(memory Memory, items []item, i int, got cache.Result, err error) (next int, rest bool) {
	defer got.Secret.Release() // the items have copies; Release accepts nil
	suffix, last := items[i].ref.Suffix, 0
	if n := wholeBytes(items, i, got); err == nil && n > 0 && memory != nil && !memory.Reserve(n) {
		err = errNoMemory // before any value is copied
	}
	for {
		it, following := &items[i], items[i].next
		switch {
		case it.err != nil: // not allowed
		case !answers(got.Secret, err, suffix, it.ref.Suffix):
			if it.next = 0; rest {
				items[last].next = i
			} else {
				next, rest = i, true
			}
			last = i
		case err != nil:
			it.err = secret.AsError(err)
		default:
			it.got = got
			value, err := r.value(got.Secret, it.ref)
			if err == nil && it.ref.Key != "" && memory != nil && !memory.Reserve(value.Len()) {
				value.Wipe()
				value, err = secret.Value{}, errNoMemory
			}
			if err != nil {
				it.err = secret.AsError(err)
			}
			it.value = value
		}
		if i = following; i == 0 {
			return next, rest
		}
	}
}

// answers reports whether the outcome of a read with one suffix is the answer to a reference
// with another one, which is otherwise the same. A secret that was deleted and created again
// has another suffix, so a refusal may not apply to both; an outage does.
func answers(s *secret.Secret, err error, read, suffix string) bool {
	if read == suffix {
		return true
	}
	if err == nil {
		return s.HasSuffix(suffix)
	}
	switch secret.AsError(err).Reason {
	case secret.ReasonStoreUnavailable, secret.ReasonStoreThrottled, secret.ReasonOverloaded, secret.ReasonInternal:
		return true
	default:
		return false
	}
}

// wholeBytes returns the number of bytes that will be copied for those items of the secret
// that request the whole secret. The size of a value at a JSON key is known only after it
// has been selected.
func wholeBytes(items []item, i int, got cache.Result) (n int) {
	if got.Secret == nil {
		return 0
	}
	for {
		if it := &items[i]; it.err == nil && it.ref.Key == "" && got.Secret.HasSuffix(it.ref.Suffix) {
			n += got.Secret.Size()
		}
		if i = items[i].next; i == 0 {
			return n
		}
	}
}

// value selects and decodes the value that ref refers to.
func (r *Resolver) value(s *secret.Secret, ref secret.Ref) (secret.Value, error) {
	if n, most := s.Size(), r.cfg.Limits.MaxDocumentBytes; ref.Key != "" && n > most {
		return secret.Value{}, secret.Errorf(secret.ReasonSecretTooLarge,
			"the secret has %d bytes, but to find a JSON key the broker parses at most %d bytes; store a smaller document, or raise limits.max_document_bytes", n, most)
	}
	v, err := s.Select(ref.Key)
	if err != nil {
		return secret.Value{}, err
	}
	return ref.Decoding.Apply(v)
}
