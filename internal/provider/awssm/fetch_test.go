package awssm

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/devmode/secretsmanager"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

func TestFetch(t *testing.T) {
	f := newFake(t)
	f.put(region, "prod/db", canary+"-1")
	arn := f.put(region, "prod/db", canary)
	f.put("us-east-1", "prod/db", canary+" in America")
	s := f.open(f.Config(), f.integration())
	v1, v2 := secretsmanager.VersionID("prod/db", 0, canary+"-1"), secretsmanager.VersionID("prod/db", 1, canary)
	other := secretsmanager.VersionID("prod/db", 0, canary+" in America")
	for _, tt := range []struct{ reference, want, version string }{
		{storeURL + "::prod/db", canary, v2},
		{storeURL + "::prod/db#AWSCURRENT", canary, v2},
		{storeURL + "::prod/db#AWSPREVIOUS", canary + "-1", v1},
		{storeURL + "::prod/db#" + v1, canary + "-1", v1},
		{arn, canary, v2},
		{arn + "#AWSPREVIOUS", canary + "-1", v1},
		{arn + "#" + v2, canary, v2},
		{"https://" + otherHost + "::prod/db", canary + " in America", other},
	} {
		got := f.Fetch(s, tt.reference)
		if providertest.Reveal(t, got) != tt.want || got.Version != tt.version || !got.ExpiresAt.IsZero() || got.FetchedAt.IsZero() {
			t.Errorf("%s: version %s, expires %v", tt.reference, got.Version, got.ExpiresAt)
		}
		if suffix := arn[len(arn)-6:]; !strings.Contains(tt.reference, otherHost) && (!got.HasSuffix(suffix) || got.HasSuffix("ZzZzZz")) {
			t.Errorf("%s: its ARN does not end with %s", tt.reference, suffix)
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
	blob := make([]byte, 65536)
	for i := range blob {
		blob[i] = byte(i * 7)
	}
	f.set(region, "blob", func(s *secretsmanager.Secret) {
		s.Versions = []secretsmanager.Version{{Value: base64.StdEncoding.EncodeToString(blob), Base64: true}}
	})
	s := f.open(f.Config(), f.integration())
	got := f.Fetch(s, storeURL+"::blob")
	if providertest.Reveal(t, got) != base64.StdEncoding.EncodeToString(blob) {
		t.Errorf("%d bytes, which are not those that were put", got.Size())
	}
	v, err := secret.DecodeBase64.Apply(secret.NewValue([]byte(providertest.Reveal(t, got))))
	providertest.Must(t, err)
	if !bytes.Equal(v.RevealBytes(), blob) {
		t.Error("decoded, it is something else")
	}
	f.put(region, "big", strings.Repeat("\x01", 65536)) // six bytes each in JSON
	if got := f.Fetch(s, storeURL+"::big"); got.Size() != 65536 {
		t.Errorf("%d bytes", got.Size())
	}
}

// aws-stage: AWS's own example of a policy denies requests that do not name the stage.
func TestCurrentVersionIsRequestedByStage(t *testing.T) {
	f := newFake(t)
	s := f.open(f.Config(), f.integration())
	f.put(region, "db", canary)
	for _, ref := range []string{storeURL + "::db", storeURL + "::db#AWSCURRENT"} {
		f.Fetch(s, ref)
		f.mu.Lock()
		last := f.calls[len(f.calls)-1]
		f.mu.Unlock()
		if last.operation != "GetSecretValue" || last.VersionStage != "AWSCURRENT" || last.VersionId != "" {
			t.Errorf("%s: %+v", ref, last)
		}
	}
}

// aws-binary-json: a JSON key selects from the bytes of a binary secret.
func TestBinaryJSON(t *testing.T) {
	f := newFake(t)
	doc := `{"user":"u","password":"binPassw0rd"}`
	encoded := base64.StdEncoding.EncodeToString([]byte(doc))
	f.set(region, "blob", func(s *secretsmanager.Secret) {
		s.Versions = []secretsmanager.Version{{Value: encoded, Base64: true}}
	})
	got := f.Fetch(f.open(f.Config(), f.integration()), storeURL+"::blob")
	v, err := got.Select("password")
	if err != nil || v.Reveal() != "binPassw0rd" || providertest.Reveal(t, got) != encoded || got.Size() != len(encoded) {
		t.Errorf("%d bytes, %v", v.Len(), err)
	}
}

func TestFetchFails(t *testing.T) {
	f := newFake(t)
	db, gone := f.put(region, "db", canary), f.put(region, "gone", canary)
	f.set(region, "gone", func(s *secretsmanager.Secret) { s.Deleted = true })
	f.set(region, "pending", func(*secretsmanager.Secret) {}) // no version yet
	f.put(region, "my-secret", canary)                        // a name and a part of its ARN that looks complete
	foreign := f.share("shared")
	s := f.open(f.Config(), f.integration())
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
		{gone, secret.ReasonSecretDisabled},
		{foreign, secret.ReasonStoreNotAllowed},
		{"https://secretsmanager.eu-west-2.amazonaws.com::db", secret.ReasonStoreNotAllowed},
		{strings.Replace(db, region, "eu-west-2", 1), secret.ReasonStoreNotAllowed},
	} {
		f.Fails(t.Context(), s, tt.reference, tt.want)
	}
	if e := f.Fails(t.Context(), s, storeARN+":secret:my-secret", secret.ReasonSecretNotFound); !strings.Contains(e.Message, "copy the whole ARN") {
		t.Errorf("a part of an ARN: %s", e.Message)
	}
	_, err := s.Fetch(t.Context(), secret.Ref{Kind: secret.KindAWSSecretsManager, Store: storeURL, Name: "arn:aws:x"})
	f.CheckError(err, secret.ReasonInvalidReference)
}

// share creates a secret of another account and returns its ARN.
func (f *fake) share(name string) (arn string) {
	arn = f.put(region, name, canary)
	f.set(region, name, func(s *secretsmanager.Secret) { s.Account = otherOne })
	return strings.Replace(arn, account, otherOne, 1)
}

// The secrets of another account are read by their ARNs, if the ARN prefix is a store
// of the integration.
func TestOtherAccount(t *testing.T) {
	f := newFake(t)
	foreign := f.share("shared")
	in := f.integration()
	settingsOf(in).Stores = append(settingsOf(in).Stores, "arn:aws:secretsmanager:"+region+":"+otherOne)
	s := f.open(f.Config(), in)
	if got := f.Fetch(s, foreign); providertest.Reveal(t, got) != canary {
		t.Error("another value")
	}
	f.Fails(t.Context(), s, storeURL+"::shared", secret.ReasonSecretNotFound)
}
