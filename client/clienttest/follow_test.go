package clienttest_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/client/clienttest"
	"github.com/secretbroker/secretbroker/internal/asynctest"
)

// next returns the next change that a Follower has reported.
func next(t *testing.T, changes <-chan client.Change) client.Change {
	t.Helper()
	select {
	case c := <-changes:
		return c
	case <-time.After(30 * time.Second):
		t.Fatal("no change is reported")
		return client.Change{}
	}
}

// A program follows secrets of two integrations through rotations, a lost grant, an unusable
// secret and an outage of the broker.
func TestFollow(t *testing.T) {
	b := clienttest.NewBroker(t)
	b.Set("prod", db, `{"user":"app","password":"first"}`)
	b.Set("files", "env::TOKEN", "token-1")
	changes := make(chan client.Change, 100)
	sets := map[string]client.FollowSet{
		"db":    {IntegrationID: "prod", Configs: map[string]string{"password": db + "::password", "user": db + "::user"}},
		"token": {IntegrationID: "files", Configs: map[string]string{"token": "env::TOKEN"}},
	}
	f, err := b.Client().Follow(t.Context(), client.FollowRequest{Sets: sets, Changed: func(_ context.Context, all []client.Change) {
		for _, c := range all {
			changes <- c
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	get := func(set, config string) string {
		v, err := f.Get(set, config)
		if err != nil {
			var e *client.Error
			errors.As(err, &e)
			return string(e.Reason)
		}
		return v.Reveal() + " " + v.Version
	}
	want := func(set, config, want string) {
		t.Helper()
		if got := get(set, config); got != want {
			t.Errorf("%s/%s: %q, want %q", set, config, got, want)
		}
	}
	want("db", "password", "first 1")
	want("token", "token", "token-1 1")

	b.Set("prod", db, `{"user":"app2","password":"second"}`)
	if one, two := next(t, changes), next(t, changes); one.Config != "password" || one.Value.Reveal() != "second" || two.Config != "user" || two.Value.Version != "2" {
		t.Errorf("changes %+v, %+v", one, two)
	}
	want("db", "password", "second 2")
	want("token", "token", "token-1 1")

	b.Deny("files")
	if c := next(t, changes); c.Set != "token" || c.Err == nil || c.Err.Reason != client.ReasonAccessDenied {
		t.Errorf("change %+v", c)
	}
	want("token", "token", "ACCESS_DENIED")
	if !errors.Is(f.Err(), client.ReasonAccessDenied) {
		t.Errorf("Err: %v", f.Err())
	}
	b.Allow("files")
	if c := next(t, changes); c.Value.Reveal() != "token-1" {
		t.Errorf("change %+v", c)
	}

	b.SetSecret("files", "env::TOKEN", clienttest.Secret{Reason: client.ReasonSecretDisabled})
	asynctest.Eventually(t, "Err tells of the secret", func() bool { return errors.Is(f.Err(), client.ReasonSecretDisabled) })
	want("token", "token", "token-1 1")
	b.Set("files", "env::TOKEN", "token-1")
	asynctest.Eventually(t, "Err is nil", func() bool { return f.Err() == nil })

	b.Stop()
	asynctest.Eventually(t, "Err tells of the outage", func() bool { return errors.Is(f.Err(), client.ReasonBrokerUnreachable) })
	want("db", "password", "second 2")
	b.Set("prod", db, `{"user":"app3","password":"third"}`)
	b.Start()
	if c := next(t, changes); c.Config != "password" || c.Value.Reveal() != "third" {
		t.Errorf("change %+v", c)
	}
	want("db", "user", "app3 3")
	asynctest.Eventually(t, "Err is nil", func() bool { return f.Err() == nil })

	sets["more"] = client.FollowSet{IntegrationID: "prod", Configs: map[string]string{"whole": db}}
	delete(sets, "token")
	if err := f.Update(t.Context(), sets); err != nil {
		t.Fatal(err)
	}
	want("token", "token", "INVALID_REQUEST")
	want("more", "whole", `{"user":"app3","password":"third"} 3`)
}

// Watch tells of the changes themselves.
func TestWatch(t *testing.T) {
	b := clienttest.NewBroker(t)
	b.Set("prod", db, "first")
	req := client.WatchRequest{Sets: []client.WatchSet{{IntegrationID: "prod", Configs: map[string]string{"p": db}, KnownVersions: map[string]string{"p": "0"}}}}
	steps := []func(){
		func() { b.Set("prod", db, "second") },
		func() { b.Deny("prod") },
		func() { b.Allow("prod") },
	}
	var states []client.NoticeState
	for res, err := range b.Client().Watch(t.Context(), req) {
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range res.Notices {
			states = append(states, n.State)
			if n.State == client.NoticeChanged && (n.FetchTime.IsZero() || n.Version == "") {
				t.Errorf("notice %+v", n)
			}
			if len(steps) > 0 {
				steps[0]()
				steps = steps[1:]
			}
		}
		if len(states) == 4 {
			break
		}
	}
	want := []client.NoticeState{client.NoticeChanged, client.NoticeChanged, client.NoticeDenied, client.NoticeChanged}
	for i, state := range want {
		if states[i] != state {
			t.Fatalf("states %q, want %q", states, want)
		}
	}
}

// Refresh returns what the broker reads now, and no value.
func TestRefresh(t *testing.T) {
	b := clienttest.NewBroker(t)
	b.SetSecret("prod", db, clienttest.Secret{Value: []byte("x"), Version: "v7"})
	before := time.Now()
	res, err := b.Client().Refresh(t.Context(), client.RefreshRequest{IntegrationID: "prod", Configs: map[string]string{"p": db, "q": db + "-other"}})
	if err != nil {
		t.Fatal(err)
	}
	if p := res.Configs["p"]; p.Version != "v7" || p.FetchTime.Before(before) || len(res.Configs) != 1 {
		t.Errorf("configs %+v", res.Configs)
	}
	if e := res.Errors["q"]; e.Reason != client.ReasonSecretNotFound || e.Config != "q" {
		t.Errorf("errors %+v", res.Errors)
	}
	if res.Coverage != client.CoverageThisReplica || res.RequestID == "" || len(res.Unacknowledged) > 0 {
		t.Errorf("answer %+v", res)
	}
}
