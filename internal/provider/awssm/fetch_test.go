package awssm

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// fetch expects a value.
func (f *fake) fetch(s *store, reference string) *secret.Secret {
	f.t.Helper()
	sec, err := s.Fetch(f.t.Context(), ref(f.t, reference))
	if err != nil {
		f.t.Fatalf("Fetch of %s: %v", reference, err)
	}
	f.checkClean("the log", f.logs.String())
	return sec
}

// fails expects an error of this reason which, like the log, quotes nothing.
func (f *fake) fails(s *store, ctx context.Context, reference string, want secret.Reason) *secret.Error {
	f.t.Helper()
	sec, err := s.Fetch(ctx, ref(f.t, reference))
	if err == nil {
		f.t.Fatalf("Fetch gave %v, want %s", sec, want)
	}
	return f.checkError(err, want)
}

func (f *fake) checkError(err error, want secret.Reason) *secret.Error {
	f.t.Helper()
	var e *secret.Error
	if !errors.As(err, &e) {
		f.t.Fatalf("error of type %T: %v", err, err)
	}
	if e.Reason != want {
		f.t.Fatalf("reason %s, want %s: %v", e.Reason, want, err)
	}
	if e.Message == "" {
		f.t.Error("no message")
	}
	text := ""
	for c := err; c != nil; c = errors.Unwrap(c) {
		text += fmt.Sprintf("%v\n%+v\n%#v\n", c, c, c)
	}
	f.checkClean("the error", text)
	f.checkClean("the log", f.logs.String())
	return e
}

func (f *fake) checkClean(where, text string) {
	f.t.Helper()
	for _, word := range []string{canary, baseSecret, oidcToken, "session-secret", "session-token", "AWS4-HMAC"} {
		if strings.Contains(text, word) {
			f.t.Errorf("%s holds %q:\n%s", where, word, text)
		}
	}
}

func ref(t testing.TB, s string) secret.Ref {
	t.Helper()
	r, err := secret.ParseRef(s)
	must(t, err)
	return r
}

func reveal(t testing.TB, s *secret.Secret) string {
	t.Helper()
	v, err := s.Select("")
	must(t, err)
	return v.Reveal()
}

func TestFetch(t *testing.T) {
	f := newFake(t)
	sec := f.put(region, "prod/db", canary+"-1")
	f.put(region, "prod/db", canary)
	f.put("us-east-1", "prod/db", canary+" in America")
	arn := sec.arn(region)
	s := f.open(f.config(), f.integration())
	v1, v2 := sec.versions[0].id, sec.versions[1].id
	for _, tt := range []struct{ reference, want, version string }{
		{storeURL + "::prod/db", canary, v2},
		{storeURL + "::prod/db#AWSCURRENT", canary, v2},
		{storeURL + "::prod/db#AWSPREVIOUS", canary + "-1", v1},
		{storeURL + "::prod/db#" + v1, canary + "-1", v1},
		{arn, canary, v2},
		{arn + "#AWSPREVIOUS", canary + "-1", v1},
		{arn + "#" + v2, canary, v2},
		{"https://" + otherHost + "::prod/db", canary + " in America", v1},
	} {
		got := f.fetch(s, tt.reference)
		if reveal(t, got) != tt.want || got.Version != tt.version || !got.ExpiresAt.IsZero() || got.FetchedAt.IsZero() {
			t.Errorf("%s: version %s, expires %v", tt.reference, got.Version, got.ExpiresAt)
		}
	}
	if n := f.count("AssumeRole"); n != 1 {
		t.Errorf("%d sessions for eight reads", n)
	}
	if n := f.count("DescribeSecret"); n != 0 {
		t.Errorf("%d descriptions that nobody asked for", n)
	}
}

func TestBinary(t *testing.T) {
	f := newFake(t)
	sec := f.put(region, "blob", "x")
	blob := make([]byte, 65536)
	for i := range blob {
		blob[i] = byte(i * 7)
	}
	sec.versions[0].text, sec.versions[0].binary = nil, blob
	s := f.open(f.config(), f.integration())
	got := f.fetch(s, storeURL+"::blob")
	if reveal(t, got) != base64.StdEncoding.EncodeToString(blob) {
		t.Errorf("%d bytes, which are not those that were put", got.Size())
	}
	v, err := secret.DecodeBase64.Apply(secret.NewValue([]byte(reveal(t, got))))
	must(t, err)
	if !bytes.Equal(v.RevealBytes(), blob) {
		t.Error("decoded, it is something else")
	}
	f.put(region, "big", strings.Repeat("\x01", 65536)) // six bytes each in JSON
	if got := f.fetch(s, storeURL+"::big"); got.Size() != 65536 {
		t.Errorf("%d bytes", got.Size())
	}
}

func TestFetchFails(t *testing.T) {
	f := newFake(t)
	sec := f.put(region, "db", canary)
	gone := f.put(region, "gone", canary)
	gone.deleted = true
	pending := f.put(region, "pending", canary)
	pending.versions[0].text = nil
	f.put(region, "my-secret", canary) // and a part of its ARN looks complete
	foreign := f.put(region, "shared", canary)
	foreign.account = otherOne
	s := f.open(f.config(), f.integration())
	for _, tt := range []struct {
		reference string
		want      secret.Reason
	}{
		{storeURL + "::missing", secret.ReasonSecretNotFound},
		{storeURL + "::db#11111111-1111-1111-1111-111111111111", secret.ReasonSecretNotFound},
		{storeURL + "::db#AWSPENDING", secret.ReasonSecretNotFound},
		{storeURL + "::pending", secret.ReasonSecretNotFound},
		{storeARN + ":secret:db-ZZZZZZ", secret.ReasonSecretNotFound},
		{storeARN + ":secret:my-secret", secret.ReasonSecretNotFound},
		{storeURL + "::gone", secret.ReasonSecretDisabled},
		{gone.arn(region), secret.ReasonSecretDisabled},
		{foreign.arn(region), secret.ReasonStoreNotAllowed},
		{"https://secretsmanager.eu-west-2.amazonaws.com::db", secret.ReasonStoreNotAllowed},
		{strings.Replace(sec.arn(region), region, "eu-west-2", 1), secret.ReasonStoreNotAllowed},
	} {
		f.fails(s, t.Context(), tt.reference, tt.want)
	}
	if e := f.fails(s, t.Context(), storeARN+":secret:my-secret", secret.ReasonSecretNotFound); !strings.Contains(e.Message, "copy it whole") {
		t.Errorf("a part of an ARN: %s", e.Message)
	}
	_, err := s.Fetch(t.Context(), secret.Ref{Kind: secret.KindAWSSecretsManager, Store: storeURL, Name: "arn:aws:x"})
	f.checkError(err, secret.ReasonInvalidReference)
}

// The secrets of another account are read by their ARNs, if that is a store.
func TestOtherAccount(t *testing.T) {
	f := newFake(t)
	foreign := f.put(region, "shared", canary)
	foreign.account = otherOne
	in := f.integration()
	in.AWS.Stores = append(in.AWS.Stores, "arn:aws:secretsmanager:"+region+":"+otherOne)
	s := f.open(f.config(), in)
	if got := f.fetch(s, foreign.arn(region)); reveal(t, got) != canary {
		t.Error("another value")
	}
	f.fails(s, t.Context(), storeURL+"::shared", secret.ReasonSecretNotFound)
}
