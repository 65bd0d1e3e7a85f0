package events

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/cache"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/replica"
	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/watch"
)

const (
	endpoint = "https://secretsmanager.eu-west-1.amazonaws.com"
	account  = "arn:aws:secretsmanager:eu-west-1:123456789012"
	arn      = account + ":secret:db-AbCdEf"
)

// holdings is a Holdings with a real Hub and a real Cache, in which everything has version v1.
type holdings struct {
	Holdings
	in    *integration.Integration
	known map[string]string // by store and name
}

func newHoldings(t *testing.T, document string) *holdings {
	t.Helper()
	parsed := kinds.All().ParseDocument([]byte(document), integration.DocumentConfig{})
	if len(parsed.Faults) > 0 {
		t.Fatal(parsed.Faults)
	}
	h := &holdings{in: parsed.Integration, known: map[string]string{}}
	h.Hub = watch.New(watch.Config{})
	h.Hub.SetReader(h)
	values, err := cache.New(cache.Config{Loaded: h.Hub.Loaded})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(values.Close)
	h.Cache = values
	h.Known = func(k replica.Key) (string, bool) {
		version, ok := h.known[k.Store+" "+k.Name+k.Version]
		return version, ok && k.Integration == h.in.ID
	}
	return h
}

func (h *holdings) Decide(_ authz.Principal, _ string, ref secret.Ref) watch.Decision {
	return watch.Decision{ReadRevision: h.in.ReadRevision, Store: h.in.CanonicalStore(ref.Store), Interval: time.Hour}
}

func (h *holdings) Read(context.Context, authz.Principal, string, secret.Ref, bool) (cache.Load, bool) {
	return cache.Load{}, false
}

// load puts a secret into the cache, which tells the Hub.
func (h *holdings) load(t *testing.T, store, name, label string) {
	t.Helper()
	key := cache.Key{Integration: h.in.ID, Revision: h.in.ReadRevision, Store: h.in.CanonicalStore(store), Name: name, Version: label}
	got, err := h.Cache.Get(t.Context(), cache.Request{Key: key, TTL: time.Hour}, func(context.Context) (*secret.Secret, error) {
		return secret.New("v1", time.Now(), time.Time{}, []byte("value")), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	got.Secret.Release()
}

// watch watches references.
func (h *holdings) watch(t *testing.T, references ...string) {
	t.Helper()
	items := make([]watch.Item, len(references))
	for i, text := range references {
		ref, err := secret.ParseRef(text)
		if err != nil {
			t.Fatal(err)
		}
		items[i] = watch.Item{IntegrationID: h.in.ID, Ref: ref}
	}
	s, err := h.Hub.Open("dns:a.example.org", items)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, _, _ = s.Next(ctx) // decides
}

func (h *holdings) expect(t *testing.T, what string, e provider.Event, want ...string) {
	t.Helper()
	var got []string
	for _, held := range h.Held(h.in, &e) {
		got = append(got, held.Ref.String()+" "+held.Version)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// TestHoldings: a secret is held if it is cached, watched or known from another replica, by
// any name of its store, and is read by a reference that names it.
func TestHoldings(t *testing.T) {
	h := newHoldings(t, "id: it\nkind: AWS_SECRETS_MANAGER\naws: {account_id: \"123456789012\", stores: [\"https://secretsmanager.eu-west-1.amazonaws.com\"], credential: {type: default}}\n")
	db := provider.Event{Store: account, Name: "db", Suffix: "AbCdEf"}
	h.expect(t, "nothing is held", db)
	h.load(t, endpoint, "db", "")
	h.expect(t, "cached", db, endpoint+"::db v1")
	h.known[endpoint+" db"] = "v1"
	h.expect(t, "cached, and read by another replica", db, endpoint+"::db v1")
	h.known[endpoint+" db"] = "v2"
	h.expect(t, "the other replica has another version", db, endpoint+"::db ")
	h.known[endpoint+" other"] = "v3"
	h.expect(t, "read by another replica only", provider.Event{Store: endpoint, Name: "other"}, endpoint+"::other v3")
	h.expect(t, "a label that is not held", provider.Event{Store: account, Name: "db", Label: "AWSPREVIOUS"})

	delete(h.known, endpoint+" db")
	const id = "0123456789abcdef0123456789abcdef"
	h.watch(t, arn+"::password", endpoint+"::db", arn+"#AWSPREVIOUS", arn+"#"+id, account+":secret:db-zzzzzz")
	h.load(t, endpoint, "db", "AWSPREVIOUS")
	h.expect(t, "watched by name and ARN", db, arn+" ", endpoint+"::db ")
	db.Label = "AWSPREVIOUS"
	h.expect(t, "a label", db, arn+"#AWSPREVIOUS ")
	db.Label = provider.AnyLabel
	h.expect(t, "all labels", db, arn+" ", endpoint+"::db ", arn+"#AWSPREVIOUS ")
	h.expect(t, "another secret of that name", provider.Event{Store: account, Name: "db", Suffix: "zzzzzz"}, account+":secret:db-zzzzzz ", endpoint+"::db ")
	h.expect(t, "any secret of the store", provider.Event{Store: account, Label: provider.AnyLabel},
		arn+" ", endpoint+"::db ", arn+"#AWSPREVIOUS ", account+":secret:db-zzzzzz ")
	h.expect(t, "another name", provider.Event{Store: account, Name: "d", Label: provider.AnyLabel})
}

// TestHoldingsByARN: an integration that lists an account reads by ARN.
func TestHoldingsByARN(t *testing.T) {
	h := newHoldings(t, "id: it\nkind: AWS_SECRETS_MANAGER\naws: {account_id: \"999999999999\", stores: [\""+account+"\"], credential: {type: default}}\n")
	h.load(t, account, "db", "")
	h.expect(t, "cached", provider.Event{Store: account, Name: "db", Suffix: "AbCdEf"}, arn+" v1")
	h.expect(t, "an event without a suffix", provider.Event{Store: account, Name: "db"})
	h.expect(t, "a name that is not valid", provider.Event{Store: account, Name: "db\x00", Suffix: "AbCdEf"})
}
