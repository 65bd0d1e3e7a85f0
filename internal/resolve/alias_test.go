package resolve_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const (
	ireland      = "https://secretsmanager.eu-west-1.amazonaws.com"
	irelandARN   = "arn:aws:secretsmanager:eu-west-1:111122223333"
	frankfurt    = "https://secretsmanager.eu-central-1.amazonaws.com"
	otherAccount = "arn:aws:secretsmanager:eu-west-1:444455556666"
)

// awsSettings are the settings of an integration whose account is 111122223333.
type awsSettings struct{ integration.Settings }

func (awsSettings) Aliases(store string) []string { return []string{store} }

func (awsSettings) Canonical(store string) string {
	if store == irelandARN {
		return ireland
	}
	return store
}

// awsStores are stores whose secrets rotate with every read, if rotates is set. A version is
// a document with a user and a password.
type awsStores struct {
	mu      sync.Mutex
	rotates bool
	version int
	suffix  map[string]string // by canonical store and name
	fault   error
	reads   []string
}

func (s *awsStores) Fetch(_ context.Context, in *integration.Integration, ref secret.Ref) (*secret.Secret, error) {
	began := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads = append(s.reads, ref.String())
	if s.fault != nil {
		return nil, s.fault
	}
	suffix := s.suffix[in.CanonicalStore(ref.Store)+"::"+ref.Name]
	if suffix == "" || ref.Suffix != "" && ref.Suffix != suffix {
		return nil, secret.Errorf(secret.ReasonSecretNotFound, "no such secret")
	}
	if s.rotates {
		s.version++
	}
	document := fmt.Sprintf(`{"user":"user-%d","password":"password-%d","store":%q}`, s.version, s.version, in.CanonicalStore(ref.Store))
	return secret.New(fmt.Sprint(s.version), began, time.Time{}, []byte(document)).WithSuffix(suffix), nil
}

func newAWS(t *testing.T) (*bench, *awsStores) {
	t.Helper()
	s := &awsStores{suffix: map[string]string{ireland + "::prod/db": "AbCdEf", frankfurt + "::prod/db": "AbCdEf", otherAccount + "::prod/db": "AbCdEf"}}
	b := newBench(t, func(c *resolve.Config) { c.Stores = s })
	policy, err := authz.NewPolicy(secret.KindAWSSecretsManager, []string{ireland, irelandARN, frankfurt, otherAccount}, []authz.Grant{
		{ID: "g0", Principals: []string{"spiffe://example.org/connect/*"}, Secrets: []string{"prod/db"}},
		{ID: "g1", Principals: []string{"spiffe://example.org/narrow"}, Secrets: []string{"prod/db"}, Keys: []string{"user"}},
		{ID: "g2", Principals: []string{"spiffe://example.org/similar"}, Secrets: []string{"prod/db-AbCdEf"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	b.integration.Kind, b.integration.Settings, b.integration.Policy = secret.KindAWSSecretsManager, awsSettings{}, policy
	return b, s
}

// values calls who's Resolve and returns the values, and the reasons of the failures.
func (b *bench) values(who authz.Principal, maxAge *time.Duration, configs map[string]string) map[string]string {
	got := make(map[string]string)
	res, err := b.call(who, resolve.Request{Configs: configs, MaxAge: maxAge, AllowPartial: true})
	if err != nil {
		got[""] = err.Error()
		return got
	}
	defer res.Wipe()
	for _, c := range res.Configs {
		got[c.Config] = c.Value.Reveal()
	}
	for _, c := range res.Errors {
		got[c.Config] = string(c.Err.Reason)
	}
	return got
}

// TestOneVersionPerCall: a call that names one secret in several ways is answered from one
// read, even if the secret is rotated by every read.
func TestOneVersionPerCall(t *testing.T) {
	b, s := newAWS(t)
	s.rotates = true
	check := func(what string, configs, want map[string]string, reads int) {
		t.Helper()
		s.reads = nil
		if got := b.values(worker, ptr(time.Duration(0)), configs); !maps.Equal(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
		if len(s.reads) != reads {
			t.Errorf("%s: reads of %v, want %d", what, s.reads, reads)
		}
	}
	const byName, byARN = ireland + "::prod/db", irelandARN + ":secret:prod/db-AbCdEf"
	check("two keys", map[string]string{"a": byName + "::user", "b": byName + "::password"},
		map[string]string{"a": "user-1", "b": "password-1"}, 1)
	b, s = newAWS(t)
	s.rotates = true
	check("two names", map[string]string{"a": byName + "::user", "b": byARN + "::password", "c": byARN + "::user", "d": byName + "#AWSCURRENT::user"},
		map[string]string{"a": "user-1", "b": "password-1", "c": "user-1", "d": "user-1"}, 1)
	b, s = newAWS(t)
	s.rotates = true
	check("ARN first", map[string]string{"b": byName + "::user", "a": byARN + "::password"},
		map[string]string{"b": "user-1", "a": "password-1"}, 1)
	b, s = newAWS(t)
	s.rotates = true
	dead := irelandARN + ":secret:prod/db-ZzZzZz"
	check("an ARN of a deleted secret first", map[string]string{"a": dead + "::user", "b": byName + "::user", "c": byARN + "::password", "d": dead + "::password"},
		map[string]string{"a": "SECRET_NOT_FOUND", "b": "user-1", "c": "password-1", "d": "SECRET_NOT_FOUND"}, 2)
	b, s = newAWS(t)
	s.rotates = true
	check("an ARN of a deleted secret last", map[string]string{"b": dead + "::user", "a": byName + "::user"},
		map[string]string{"b": "SECRET_NOT_FOUND", "a": "user-1"}, 2)
	b, s = newAWS(t)
	check("regions and accounts", map[string]string{"a": byName + "::store", "b": frankfurt + "::prod/db::store", "c": otherAccount + ":secret:prod/db-AbCdEf::store"},
		map[string]string{"a": ireland, "b": frankfurt, "c": otherAccount}, 3)
	b, s = newAWS(t)
	s.fault = secret.Errorf(secret.ReasonStoreUnavailable, "down")
	check("an outage", map[string]string{"a": byName, "b": byARN}, map[string]string{"a": "STORE_UNAVAILABLE", "b": "STORE_UNAVAILABLE"}, 1)
}

// TestRotationIsSeenByEveryName: after a read by one name, no call gets an older version by
// another one.
func TestRotationIsSeenByEveryName(t *testing.T) {
	b, s := newAWS(t)
	const byName, byARN = ireland + "::prod/db::user", irelandARN + ":secret:prod/db-AbCdEf::user"
	is := func(ref string, maxAge *time.Duration, want string) {
		t.Helper()
		if got := b.values(worker, maxAge, map[string]string{"p": ref})["p"]; got != want {
			t.Errorf("%s: %s, want %s", ref, got, want)
		}
	}
	is(byName, nil, "user-0")
	is(byARN, nil, "user-0")
	s.mu.Lock()
	s.version = 7
	s.mu.Unlock()
	is(byARN, ptr(time.Duration(0)), "user-7")
	is(byName, nil, "user-7")
	is(frankfurt+"::prod/db::user", nil, "user-7")
	if len(s.reads) != 3 {
		t.Errorf("reads of %v", s.reads)
	}
}

// TestNamesAreDecidedAsTyped: what is in memory under one name opens nothing to a caller who
// has no grant for the name that it asks for.
func TestNamesAreDecidedAsTyped(t *testing.T) {
	b, s := newAWS(t)
	const byName, byARN = ireland + "::prod/db", irelandARN + ":secret:prod/db-AbCdEf"
	if got := b.values(worker, nil, map[string]string{"a": byName, "b": byARN}); strings.Contains(got["a"], "DENIED") || got["a"] != got["b"] {
		t.Fatal(got)
	}
	for _, tt := range []struct {
		who  authz.Principal
		ref  string
		want string
	}{
		{"spiffe://example.org/narrow", byName + "::user", "user-0"},
		{"spiffe://example.org/narrow", byARN + "::user", "user-0"},
		{"spiffe://example.org/narrow", byARN + "::password", "ACCESS_DENIED"},
		{"spiffe://example.org/narrow", byName, "ACCESS_DENIED"},
		{"spiffe://example.org/similar", byName, "ACCESS_DENIED"},
		{"spiffe://example.org/similar", byARN, "ACCESS_DENIED"},
		{"spiffe://example.org/similar", ireland + "::prod/db-AbCdEf", "SECRET_NOT_FOUND"},
		{nobody, byARN, "ACCESS_DENIED"},
	} {
		if got := b.values(tt.who, nil, map[string]string{"p": tt.ref})["p"]; got != tt.want {
			t.Errorf("%s, %s: %s, want %s", tt.who, tt.ref, got, tt.want)
		}
	}
	// The same in one call: the denied config gets nothing from the read of the allowed one.
	got := b.values("spiffe://example.org/narrow", ptr(time.Duration(0)), map[string]string{"a": byName + "::password", "b": byARN + "::user", "c": byName + "::user"})
	if want := map[string]string{"a": "ACCESS_DENIED", "b": "user-0", "c": "user-0"}; !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	for _, read := range s.reads {
		if strings.Contains(read, "prod/db-AbCdEf") && strings.HasPrefix(read, "https:") {
			continue // the similar name, which its caller may read
		}
		if !strings.HasPrefix(read, byName) && !strings.HasPrefix(read, byARN) {
			t.Errorf("a read of %s", read)
		}
	}
}

// TestOneVersionPerCallRaces: no call mixes versions while others read by other names.
func TestOneVersionPerCallRaces(t *testing.T) {
	b, s := newAWS(t)
	s.rotates = true
	const byName, byARN = ireland + "::prod/db", irelandARN + ":secret:prod/db-AbCdEf"
	configs := []map[string]string{
		{"u": byName + "::user", "p": byARN + "::password"},
		{"u": byARN + "::user", "p": byName + "::password"},
		{"u": byARN + "::user", "p": byARN + "::password"},
		{"u": byName + "::user", "p": byName + "::password"},
	}
	var callers sync.WaitGroup
	for i := range 16 {
		callers.Go(func() {
			for n := range 5 {
				res, err := b.Resolve(t.Context(), resolve.Caller{Principal: worker}, resolve.Request{ID: "r", IntegrationID: "cspi", Configs: configs[(i+n)%len(configs)], MaxAge: ptr(10 * time.Millisecond)})
				if e := secret.AsError(err); err != nil && !errors.As(err, new(*resolve.Failure)) {
					t.Error(e)
					continue
				}
				if err != nil {
					continue
				}
				p, u := res.Configs[0].Value.Reveal(), res.Configs[1].Value.Reveal()
				if strings.TrimPrefix(p, "password-") != strings.TrimPrefix(u, "user-") || res.Configs[0].Version != res.Configs[1].Version {
					t.Errorf("%s with %s", u, p)
				}
				res.Wipe()
			}
		})
	}
	callers.Wait()
}
