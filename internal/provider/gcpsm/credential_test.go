package gcpsm

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/devmode/secretmanager"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// federation returns an external account's configuration as gcloud writes it.
func (f *fake) federation(edit func(doc, source map[string]any)) string {
	source := map[string]any{"file": providertest.WriteFile(f, "token", []byte(subject+"\n")), "format": map[string]any{"type": "text"}}
	doc := map[string]any{
		"universe_domain":    "googleapis.com",
		"type":               "external_account",
		"audience":           "//iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/pool/providers/cluster",
		"subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
		"token_url":          "https://sts.googleapis.com/v1/token",
		"credential_source":  source,
		"token_info_url":     "https://sts.googleapis.com/v1/introspect",
	}
	if edit != nil {
		edit(doc, source)
	}
	return writeJSONFile(f, doc)
}

// metadata serves the metadata server over plain HTTP and points the environment to
// it.
func (f *fake) metadata(t *testing.T) {
	srv := httptest.NewServer(f.server)
	t.Cleanup(srv.Close)
	t.Setenv(metadataVariable, srv.Listener.Addr().String())
}

func TestCredentials(t *testing.T) {
	const impersonationOf = "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/"
	type setting struct {
		credential  Credential
		impersonate string
		reader      string // the account that reads in the end
	}
	tests := map[string]func(t *testing.T, f *fake) setting{
		"key": func(_ *testing.T, f *fake) setting {
			return setting{Credential{Type: ServiceAccountKey, KeyFile: f.keyFile(base)}, "", base}
		},
		"key, impersonating": func(_ *testing.T, f *fake) setting {
			return setting{Credential{Type: ServiceAccountKey, KeyFile: f.keyFile(base)}, reader, reader}
		},
		"metadata server": func(t *testing.T, f *fake) setting {
			f.metadata(t)
			return setting{Credential{Type: MetadataServer}, "", base}
		},
		"metadata server, impersonating": func(t *testing.T, f *fake) setting {
			f.metadata(t)
			return setting{Credential{Type: MetadataServer}, reader, reader}
		},
		"federation": func(_ *testing.T, f *fake) setting {
			return setting{Credential{Type: WorkloadIdentityFederation, ConfigFile: f.federation(nil)}, "", federated}
		},
		"federation, impersonating by the file": func(_ *testing.T, f *fake) setting {
			file := f.federation(func(doc, _ map[string]any) {
				doc["service_account_impersonation_url"] = impersonationOf + reader + ":generateAccessToken"
			})
			return setting{Credential{Type: WorkloadIdentityFederation, ConfigFile: file}, "", reader}
		},
		"federation, impersonating by the integration": func(_ *testing.T, f *fake) setting {
			return setting{Credential{Type: WorkloadIdentityFederation, ConfigFile: f.federation(nil)}, reader, reader}
		},
		"federation, token in JSON": func(t *testing.T, f *fake) setting {
			file := f.federation(func(_, source map[string]any) {
				source["file"] = providertest.WriteFile(t, "token.json", []byte(`{"access_token": "`+subject+`"}`))
				source["format"] = map[string]any{"type": "json", "subject_token_field_name": "access_token"}
			})
			return setting{Credential{Type: WorkloadIdentityFederation, ConfigFile: file}, "", federated}
		},
		"default, by the environment": func(t *testing.T, f *fake) setting {
			t.Setenv(defaultVariable, f.keyFile(base))
			return setting{Credential{Type: ApplicationDefault}, "", base}
		},
		"default, metadata server": func(t *testing.T, f *fake) setting {
			t.Setenv("HOME", t.TempDir())
			f.metadata(t)
			return setting{Credential{Type: ApplicationDefault}, "", base}
		},
	}
	for name, prepare := range tests {
		t.Run(name, func(t *testing.T) {
			t.Setenv(defaultVariable, "")
			f := newFake(t)
			in := f.integration()
			want := prepare(t, f)
			settingsOf(in).Credential, settingsOf(in).ImpersonateServiceAccount = want.credential, want.impersonate
			f.change(func(_ *secretmanager.State, p *secretmanager.Project) { p.Readers = []string{want.reader} })
			s := f.open(f.Config(), in)
			f.Gives(s, project+"/secrets/db", canary)
		})
	}
}

// A developer's own credential, as gcloud writes it, uses the quota project that it
// names.
func TestUserCredential(t *testing.T) {
	f := newFake(t)
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv(defaultVariable, "")
	dir := filepath.Join(home, ".config", "gcloud")
	providertest.Must(t, os.MkdirAll(dir, 0o700))
	providertest.Must(t, os.WriteFile(filepath.Join(dir, "application_default_credentials.json"), []byte(`{"type": "authorized_user",
		"client_id": "1.apps.googleusercontent.com", "client_secret": "x", "refresh_token": "REFRESH-token", "quota_project_id": "my-project"}`), 0o600))
	in := f.integration()
	settingsOf(in).Credential, settingsOf(in).ImpersonateServiceAccount = Credential{Type: ApplicationDefault}, ""
	s := f.open(f.Config(), in)

	var form map[string][]string
	f.intercept(OAuthHost, func(w http.ResponseWriter, r *http.Request) {
		providertest.Must(t, r.ParseForm())
		form = maps.Clone(r.PostForm)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"access_token": "ya29.x", "expires_in": 3599, "token_type": "Bearer"}`))
	})
	f.Fails(t.Context(), s, project+"/secrets/db", secret.ReasonStoreAuthenticationFailed) // the fake has no users
	if form["grant_type"][0] != "refresh_token" || form["refresh_token"][0] != "REFRESH-token" {
		t.Errorf("the token was not asked for by the refresh token but with %d fields", len(form))
	}
	var paid string
	f.intercept(apiHost, func(w http.ResponseWriter, r *http.Request) {
		paid = r.Header.Get("X-Goog-User-Project")
		w.WriteHeader(http.StatusForbidden)
	})
	f.Fails(t.Context(), s, project+"/secrets/db", secret.ReasonStoreAccessDenied)
	if paid != "my-project" {
		t.Errorf("the quota is that of %q", paid)
	}
}

// A credential file must not name destinations for requests or programs to run, or
// have another type than the setting states. Opening detects all of these and sends
// no request.
func TestRefusedFiles(t *testing.T) {
	type edit = func(doc, source map[string]any)
	of := func(key string, value any) edit { return func(doc, _ map[string]any) { doc[key] = value } }
	source := func(key string, value any) edit { return func(_, source map[string]any) { source[key] = value } }
	for name, tt := range map[string]struct {
		edit edit
		says string
	}{
		"token_url elsewhere":              {of("token_url", "https://sts.evil.example/v1/token"), "token_url"},
		"token_url with a user":            {of("token_url", "https://sts.googleapis.com@evil.example/v1/token"), "token_url"},
		"token_url without TLS":            {of("token_url", "http://sts.googleapis.com/v1/token"), "token_url"},
		"token_url of another path":        {of("token_url", "https://sts.googleapis.com/v1/token/../x"), "token_url"},
		"impersonation elsewhere":          {of("service_account_impersonation_url", "https://evil.example/v1/projects/-/serviceAccounts/"+reader+":generateAccessToken"), "service_account_impersonation_url"},
		"impersonation of another method":  {of("service_account_impersonation_url", "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/"+reader+":signBlob"), "service_account_impersonation_url"},
		"impersonation of no account":      {of("service_account_impersonation_url", "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/..:generateAccessToken"), "service_account_impersonation_url"},
		"a program":                        {source("executable", map[string]any{"command": "/bin/sh -c id"}), "names a program"},
		"a program beside the file":        {source("executable", map[string]any{}), "names a program"},
		"a URL":                            {source("url", "http://169.254.169.254/token"), "credential_source.url"},
		"AWS":                              {source("environment_id", "aws1"), "only file"},
		"a certificate":                    {source("certificate", map[string]any{}), "only file"},
		"relative file":                    {source("file", "token"), "absolute"},
		"no file":                          {source("file", ""), "absolute"},
		"file that is not there":           {source("file", "/nonexistent/token"), "does not exist"},
		"file that is a folder":            {source("file", os.TempDir()), "not a regular file"},
		"odd format":                       {source("format", map[string]any{"type": "xml"}), "format"},
		"JSON without a member":            {source("format", map[string]any{"type": "json"}), "format"},
		"JSON that is none":                {source("format", map[string]any{"type": "json", "subject_token_field_name": "x"}), "not a JSON object"},
		"workforce pool":                   {of("audience", "//iam.googleapis.com/locations/global/workforcePools/pool/providers/p"), "audience"},
		"audience of somebody else":        {of("audience", "https://evil.example/"), "audience"},
		"subject token type":               {of("subject_token_type", "urn:ietf:params:aws:token-type:aws4_request"), "subject_token_type"},
		"type":                             {of("type", "service_account"), "right type"},
		"impersonated service account":     {of("type", "impersonated_service_account"), "right type"},
		"another universe":                 {of("universe_domain", "evil.example"), "universe domain"},
		"a member that is not of its type": {of("audience", 7), "not a credential file"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			in := f.integration()
			settingsOf(in).ImpersonateServiceAccount = ""
			settingsOf(in).Credential = Credential{Type: WorkloadIdentityFederation, ConfigFile: f.federation(tt.edit)}
			_, err := Opener(f.Config())(t.Context(), in)
			if err == nil {
				t.Fatal("opened")
			}
			e := f.CheckError(err, secret.ReasonStoreAuthenticationFailed)
			if !strings.Contains(e.Message, tt.says) || !strings.Contains(e.Message, "gcp.credential.config_file") {
				t.Errorf("message %q", e.Message)
			}
		})
	}
}

func TestRefusedKeys(t *testing.T) {
	good := func(f *fake) map[string]any {
		return map[string]any{"type": "service_account", "client_email": base, "private_key": privatePEM(f), "token_uri": "https://oauth2.googleapis.com/token"}
	}
	for name, tt := range map[string]struct {
		key   string
		value any
		says  string
	}{
		"token_uri elsewhere": {"token_uri", "https://evil.example/token", "token_uri"},
		"no account":          {"client_email", "somebody@example.com", "client_email"},
		"no key":              {"private_key", "", "private_key"},
		"key that is none":    {"private_key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "private_key"},
		"another type":        {"type", "authorized_user", "right type"},
		"no type":             {"type", "", "right type"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			doc := good(f)
			doc[tt.key] = tt.value
			in := f.integration()
			settingsOf(in).Credential.KeyFile = writeJSONFile(t, doc)
			_, err := Opener(f.Config())(t.Context(), in)
			if e := f.CheckError(err, secret.ReasonStoreAuthenticationFailed); !strings.Contains(e.Message, tt.says) {
				t.Errorf("message %q", e.Message)
			}
		})
	}
}

// Settings that the parser refuses are refused here as well.
func TestRefusedSettings(t *testing.T) {
	for name, edit := range map[string]func(in *integration.Integration){
		"no section":   func(in *integration.Integration) { in.Settings = nil },
		"another kind": func(in *integration.Integration) { in.Kind = secret.KindAzureKeyVault },
		"no projects":  func(in *integration.Integration) { settingsOf(in).Stores = nil },
		"project that is not": func(in *integration.Integration) {
			settingsOf(in).Stores = []string{"projects/x/locations/evil.example/"}
		},
		"credential type": func(in *integration.Integration) { settingsOf(in).Credential.Type = "" },
		"account":         func(in *integration.Integration) { settingsOf(in).ImpersonateServiceAccount = "../x" },
		"key file":        func(in *integration.Integration) { settingsOf(in).Credential.KeyFile = "" },
		"CA file":         func(in *integration.Integration) { settingsOf(in).CAFile = settingsOf(in).Credential.KeyFile },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			in := f.integration()
			edit(in)
			_, err := Opener(f.Config())(t.Context(), in)
			f.CheckError(err, secret.ReasonStoreAuthenticationFailed)
		})
	}
}
