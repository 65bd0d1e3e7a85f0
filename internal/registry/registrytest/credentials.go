package registrytest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const (
	clientSecret = "azure.credential.client_secret"
	certificate  = "azure.credential.certificate"
)

// given returns credentials from pairs of names and values.
func given(pairs ...string) map[string]secret.Value {
	m := make(map[string]secret.Value)
	for pair := range slices.Chunk(pairs, 2) {
		m[pair[0]] = secret.NewValue([]byte(pair[len(pair)-1]))
	}
	return m
}

func checkCredential(t *testing.T, in *integration.Integration, name, want string) {
	t.Helper()
	open := in.Credentials[name]
	if open == nil {
		t.Fatalf("the integration has no credential %s", name)
	}
	for range 2 {
		b, err := open(t.Context())
		if err != nil || string(b) != want {
			t.Errorf("%s opens to %d bytes, %v", name, len(b), err)
		}
		clear(b)
	}
}

func testCredentials(t *testing.T, b *Backend) {
	s := b.Open(t, Settings{})
	doc := []byte(secretDocument("a"))
	credentials := given(clientSecret, "s3cret-1")
	r := mustCreate(t, s, registry.Change{Document: doc, Credentials: credentials})
	checkCredential(t, r.Integration, clientSecret, "s3cret-1")
	credentials[clientSecret].Wipe() // owned by the caller
	in := mustGet(t, s, "a")
	checkCredential(t, in, clientSecret, "s3cret-1")
	checkCredential(t, r.Integration, clientSecret, "s3cret-1")
	if settings := fmt.Sprintf("%+v", in.Settings); !strings.Contains(settings, "ClientSecretFile: ") {
		t.Errorf("a file out of nowhere: %s", settings)
	}
	if !slices.Equal(r.Credentials, []string{clientSecret}) {
		t.Errorf("Record names the credentials %v", r.Credentials)
	}
	u := mustUpdate(t, s, registry.Change{Document: append(doc, "display_name: x\n"...)})
	checkCredential(t, mustGet(t, s, "a"), clientSecret, "s3cret-1")
	if !slices.Equal(u.Credentials, []string{clientSecret}) {
		t.Errorf("after an Update without credentials: %v", u.Credentials)
	}
	if renamed := mustGet(t, s, "a"); renamed.Revision == in.Revision || renamed.ReadRevision != in.ReadRevision {
		t.Errorf("after a new display name: revisions %q and %q, were %q and %q", renamed.Revision, renamed.ReadRevision, in.Revision, in.ReadRevision)
	}
	u = mustUpdate(t, s, registry.Change{Document: doc, Credentials: given(clientSecret, "s3cret-2"), ETag: u.ETag})
	now := mustGet(t, s, "a")
	checkCredential(t, now, clientSecret, "s3cret-2")
	if now.Revision == in.Revision || now.ReadRevision == in.ReadRevision {
		t.Error("another credential, but the same revision")
	}
	other := b.Open(t, Settings{})
	checkCredential(t, mustGet(t, other, "a"), clientSecret, "s3cret-2")
	if read, err := other.Record(t.Context(), "a"); err != nil || !slices.Equal(read.Credentials, []string{clientSecret}) || read.ETag != u.ETag {
		t.Errorf("Record: %+v, %v", read, err)
	}
}

// The store keeps a credential exactly as long as the document uses it.
func testCredentialsFollow(t *testing.T, b *Backend) {
	s := b.Open(t, Settings{})
	mustCreate(t, s, registry.Change{Document: []byte(secretDocument("a")), Credentials: given(clientSecret, "s3cret")})
	withCertificate := []byte(strings.Replace(secretDocument("a"), "client_secret}", "client_certificate}", 1))
	r := mustUpdate(t, s, registry.Change{Document: withCertificate, Credentials: given(certificate, "PEM")})
	if !slices.Equal(r.Credentials, []string{certificate}) {
		t.Errorf("credentials after the change: %v", r.Credentials)
	}
	checkCredential(t, mustGet(t, s, "a"), certificate, "PEM")
	var invalid *registry.InvalidError
	if _, err := s.Update(t.Context(), registry.Change{Document: []byte(secretDocument("a"))}); !errors.As(err, &invalid) {
		t.Errorf("the credential of before is still there: %v", err)
	}
	mustUpdate(t, s, registry.Change{Document: []byte(document("a", "abc"))})
	if in := mustGet(t, s, "a"); len(in.Credentials) != 0 {
		t.Errorf("credentials that nobody needs: %d", len(in.Credentials))
	}
	if err := s.Delete(t.Context(), "a", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(t.Context(), registry.Change{Document: []byte(secretDocument("a"))}); !errors.As(err, &invalid) {
		t.Errorf("a new integration finds the credential of an old one: %v", err)
	}
}

func testCredentialFaults(t *testing.T, b *Backend) {
	s := b.Open(t, Settings{})
	for name, tt := range map[string]struct {
		document    string
		credentials map[string]secret.Value
		want        string
	}{
		"not needed":   {document("a", "abc"), given(clientSecret, "pl4nted"), "does not use this credential"},
		"unknown":      {secretDocument("a"), given(clientSecret, "pl4nted", "azure.credential.pl4nted", "x"), "does not use this credential"},
		"wrong name":   {secretDocument("a"), given("client_secret", "pl4nted"), "missing"},
		"empty":        {secretDocument("a"), given(clientSecret, ""), "empty"},
		"huge":         {secretDocument("a"), given(clientSecret, strings.Repeat("pl4nted", 10_000)), "larger"},
		"in the spec":  {strings.Replace(secretDocument("a"), "client_secret}", "client_secret, client_secret: pl4nted}", 1), nil, "client_secret"},
		"for a faulty": {secretDocument("a") + "unknown: 1\n", given(clientSecret, "pl4nted"), "unknown"},
	} {
		_, err := s.Create(t.Context(), registry.Change{Document: []byte(tt.document), Credentials: tt.credentials})
		var invalid *registry.InvalidError
		if !errors.As(err, &invalid) || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "pl4nted") && name != "unknown" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := recordIDs(t, s, registry.Page{}); got != "" {
		t.Errorf("something was written: %s", got)
	}
}

// No credential appears in a record, however it is printed.
func testCredentialsAreHidden(t *testing.T, b *Backend) {
	const planted = "pl4nted-Secret"
	s := b.Open(t, Settings{})
	c := registry.Change{Document: []byte(secretDocument("a")), Credentials: given(clientSecret, planted)}
	r := mustCreate(t, s, c)
	records, err := s.Records(t.Context(), registry.Page{})
	if err != nil {
		t.Fatal(err)
	}
	for _, holder := range []any{c, r, records, mustGet(t, s, "a"), s.List(), s, s.Status(), s.Faults()} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			text := fmt.Sprintf(verb, holder)
			if strings.Contains(text, planted) || strings.Contains(text, fmt.Sprintf("%x", planted)) ||
				strings.Contains(text, strings.Trim(fmt.Sprint([]byte(planted)), "[]")) {
				t.Errorf("%s of a %T shows the credential", verb, holder)
			}
		}
	}
}
