package client_test

import (
	"errors"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/server/nextrelease"
)

func nextReleaseClient(t *testing.T, opts nextrelease.Options) *client.Client {
	t.Helper()
	b := nextrelease.Start(t, opts)
	c, err := client.New(client.Config{Addrs: []string{b.Addr}, CAFile: b.CAFile, CertFile: b.CertFile, KeyFile: b.KeyFile, MaxAttempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestNextReleaseAnswers: answers with fields, enum values and reasons that this release
// does not know are understood as far as it knows them.
func TestNextReleaseAnswers(t *testing.T) {
	c := nextReleaseClient(t, nextrelease.Options{Next: true})
	configs := map[string]string{"database.password": "https://my-vault.vault.azure.net::db-secret"}
	res, err := c.Resolve(t.Context(), client.ResolveRequest{IntegrationID: "prod", Configs: configs, AllowPartial: true})
	if err != nil {
		t.Fatal(err)
	}
	if v := res.Values["database.password"]; v.Reveal() != "value-text" || v.Version != "version-text" || v.FetchTime.Year() != 2027 {
		t.Errorf("value %q, version %q, fetch time %v", v.Reveal(), v.Version, v.FetchTime)
	}
	if e := res.Errors["database.password"]; e.Reason != nextrelease.NextReason || e.Message != "message-text" || e.RetryAfter == 0 {
		t.Errorf("error %+v", e)
	}
	report, err := c.Check(t.Context(), client.CheckRequest{IntegrationID: "prod", Configs: configs})
	if err != nil {
		t.Fatal(err)
	}
	if r := report.Reports; len(r) != 1 || r[0].Length != client.LengthUnknown || r[0].Secret != "db-secret" || r[0].Err == nil || r[0].Err.Reason != nextrelease.NextReason {
		t.Errorf("reports %+v", r)
	}
	pages := 0
	for page, err := range c.Explain(t.Context(), client.ExplainRequest{Reference: "https://my-vault.vault.azure.net::db-secret"}) {
		if pages++; err != nil {
			t.Fatal(err)
		}
		if len(page.Readers) != 1 || page.Readers[0].GrantID != "workers" {
			t.Errorf("readers %+v", page.Readers)
		}
	}
	if pages != 1 {
		t.Errorf("%d pages", pages)
	}
}

// TestNextReleaseNotices: Watch ignores states that this release does not know, and Refresh
// takes a coverage that it does not know for an unknown one.
func TestNextReleaseNotices(t *testing.T) {
	configs := map[string]string{"database.password": "https://my-vault.vault.azure.net::db-secret"}
	for next, state := range map[bool]client.NoticeState{false: client.NoticeCurrent, true: ""} {
		c := nextReleaseClient(t, nextrelease.Options{Next: next})
		for res, err := range c.Watch(t.Context(), client.WatchRequest{Sets: []client.WatchSet{{IntegrationID: "prod", Configs: configs}}}) {
			if err != nil {
				t.Fatal(err)
			}
			var got client.NoticeState
			for _, n := range res.Notices {
				got = n.State
				if n.Version != "version-text" || n.FetchTime.Year() != 2027 || n.Config != "database.password" {
					t.Errorf("notice %+v", n)
				}
			}
			if got != state || !res.Complete || res.RequestID == "" || res.AsOfTime.Year() != 2027 {
				t.Errorf("state %q, want %q: %+v", got, state, res)
			}
			break
		}
		res, err := c.Refresh(t.Context(), client.RefreshRequest{IntegrationID: "prod", Configs: configs})
		if err != nil {
			t.Fatal(err)
		}
		if unknown := res.Coverage == client.CoverageUnknown; unknown != next || len(res.Errors) != 1 || len(res.Unacknowledged) != 1 || res.Unacknowledged[0].LastSeenTime.Year() != 2027 {
			t.Errorf("answer %+v", res)
		}
	}
}

// TestNextReleaseFailures: an error with a reason and with details that this release does
// not know keeps its code, reason, message and request id.
func TestNextReleaseFailures(t *testing.T) {
	c := nextReleaseClient(t, nextrelease.Options{Next: true, Fail: true})
	_, resolveErr := c.Resolve(t.Context(), client.ResolveRequest{IntegrationID: "prod", Configs: map[string]string{"p": "x"}})
	_, checkErr := c.Check(t.Context(), client.CheckRequest{IntegrationID: "prod", Configs: map[string]string{"p": "x"}})
	var explainErr error
	for _, explainErr = range c.Explain(t.Context(), client.ExplainRequest{Reference: "x"}) {
		break
	}
	var watchErr error
	for _, watchErr = range c.Watch(t.Context(), client.WatchRequest{Sets: []client.WatchSet{{IntegrationID: "prod", Configs: map[string]string{"p": "x"}}}}) {
		break
	}
	for call, err := range map[string]error{"Resolve": resolveErr, "Check": checkErr, "Explain": explainErr, "Watch": watchErr} {
		var e *client.Error
		if !errors.As(err, &e) || e.Reason != nextrelease.NextReason || e.Code != codes.FailedPrecondition ||
			e.RequestID != "0123456789abcdef0123456789abcdef" || e.Message != "a failure of the next release" {
			t.Errorf("%s: %#v", call, err)
		}
		if !errors.Is(err, client.Reason(nextrelease.NextReason)) {
			t.Errorf("%s: errors.Is does not find the reason", call)
		}
	}
}
