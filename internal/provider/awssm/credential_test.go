package awssm

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/devmode/secretsmanager"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// poison sets environment variables of another identity. None of them may affect an
// integration that does not choose the default credential.
func poison(t *testing.T) {
	file := providertest.WriteFile(t, "config", "[default]\naws_access_key_id = AKIAPOISON\naws_secret_access_key = x\nregion = us-west-2\nendpoint_url = https://poison.example.test\n")
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "AKIAPOISON", "AWS_SECRET_ACCESS_KEY": "x", "AWS_SESSION_TOKEN": "x", "AWS_REGION": "us-west-2",
		"AWS_DEFAULT_REGION": "us-west-2", "AWS_PROFILE": "default", "AWS_CONFIG_FILE": file, "AWS_SHARED_CREDENTIALS_FILE": file,
		"AWS_ROLE_ARN": "arn:aws:iam::999999999999:role/poison", "AWS_WEB_IDENTITY_TOKEN_FILE": file, "AWS_ROLE_SESSION_NAME": "poison",
		"AWS_ENDPOINT_URL": "https://poison.example.test", "AWS_ENDPOINT_URL_STS": "https://poison.example.test",
		"AWS_ENDPOINT_URL_SECRETS_MANAGER": "https://poison.example.test", "AWS_CA_BUNDLE": file, "AWS_USE_FIPS_ENDPOINT": "true",
		"AWS_USE_DUALSTACK_ENDPOINT": "true", "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:1/", "AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:1/",
		"AWS_DEFAULTS_MODE": "auto", "AWS_RETRY_MODE": "adaptive", "AWS_MAX_ATTEMPTS": "9", "AWS_NEW_RETRIES_2026": "true",
	} {
		t.Setenv(name, value)
	}
}

// Every type of credential except default ignores the environment.
func TestCredentials(t *testing.T) {
	for _, tt := range []struct {
		name       string
		credential func(f *fake) Credential
		direct     bool // without aws.role
		sessions   string
	}{
		{"static", func(f *fake) Credential { return settingsOf(f.integration()).Credential }, false, "AssumeRole"},
		{"static session", func(f *fake) Credential {
			f.change(func(s *secretsmanager.State) {
				s.Identity.AccessKeyID, s.Identity.SessionToken = "ASIABASE", "session-token-0"
			})
			return Credential{
				Type: Static, AccessKeyIDFile: providertest.WriteFile(f, "id", "ASIABASE"),
				SecretAccessKeyFile: providertest.WriteFile(f, "key", baseSecret), SessionTokenFile: providertest.WriteFile(f, "token", "session-token-0\n"),
			}
		}, false, "AssumeRole"},
		{"static without a role", func(f *fake) Credential {
			f.change(func(s *secretsmanager.State) { s.Identity.Reads = true })
			return settingsOf(f.integration()).Credential
		}, true, ""},
		{"profile", func(f *fake) Credential {
			return Credential{Type: Profile, Profile: "orders", CredentialsFile: providertest.WriteFile(f, "creds",
				"[default]\naws_access_key_id = AKIAPOISON\naws_secret_access_key = x\n\n[orders]\naws_access_key_id = "+baseKey+"\naws_secret_access_key = "+baseSecret+"\n")}
		}, false, "AssumeRole"},
		{"web identity", func(f *fake) Credential { return webIdentity(f) }, true, "AssumeRoleWithWebIdentity"},
		{"web identity and a role", func(f *fake) Credential { return webIdentity(f) }, false, "AssumeRoleWithWebIdentity AssumeRole"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			poison(t)
			f := newFake(t)
			f.put(region, "db", canary)
			in := f.integration()
			settingsOf(in).Credential = tt.credential(f)
			if tt.direct {
				settingsOf(in).Role = nil
			}
			f.Fetch(f.open(f.Config(), in), storeURL+"::db")
			var asked []string
			for _, a := range f.asked("AssumeRole") {
				asked = append(asked, a.operation)
				if got := a.form.Get("RoleSessionName"); got != "secretbroker-it" {
					t.Errorf("%s for the session %q", a.operation, got)
				}
			}
			if got := strings.Join(asked, " "); got != tt.sessions {
				t.Errorf("STS was asked for %q, want %q", got, tt.sessions)
			}
		})
	}
}

func webIdentity(f *fake) Credential {
	return Credential{Type: WebIdentity, TokenFile: providertest.WriteFile(f, "token", oidcToken+"\n"), RoleARN: "arn:aws:iam::" + account + ":role/broker"}
}

// Tokens and credentials files are read again for each session.
func TestCredentialIsReadAgain(t *testing.T) {
	f := newFake(t)
	f.put(region, "db", canary)
	in := f.integration()
	settingsOf(in).Credential = webIdentity(f)
	providertest.Must(t, os.WriteFile(settingsOf(in).Credential.TokenFile, []byte("an.expired.token"), 0o600))
	s := f.open(f.Config(), in)
	if e := f.Fails(t.Context(), s, storeURL+"::db", secret.ReasonStoreAuthenticationFailed); !strings.Contains(e.Message, "aws.credential.token_file") {
		t.Errorf("says %q", e.Message)
	}
	providertest.Must(t, os.WriteFile(settingsOf(in).Credential.TokenFile, []byte(oidcToken), 0o600))
	f.Fetch(s, storeURL+"::db")
	providertest.Must(t, os.Remove(settingsOf(in).Credential.TokenFile))
	f.Fetch(s, storeURL+"::db") // the session is still valid
	f.server.Revoke()
	f.Fails(t.Context(), s, storeURL+"::db", secret.ReasonStoreAuthenticationFailed)

	file := providertest.WriteFile(t, "creds", "[p]\naws_access_key_id = AKIAOLD\naws_secret_access_key = x\n")
	settingsOf(in).Credential = Credential{Type: Profile, Profile: "p", CredentialsFile: file}
	s = f.open(f.Config(), in)
	f.Fails(t.Context(), s, storeURL+"::db", secret.ReasonStoreAuthenticationFailed)
	providertest.Must(t, os.WriteFile(file, []byte("[p]\naws_access_key_id = "+baseKey+"\naws_secret_access_key = "+baseSecret+"\n"), 0o600))
	f.Fetch(s, storeURL+"::db")
}

func TestOpenFails(t *testing.T) {
	f := newFake(t)
	profile := func(text string) Credential {
		return Credential{Type: Profile, Profile: "p", CredentialsFile: providertest.WriteFile(t, "creds", text)}
	}
	good := settingsOf(f.integration()).Credential
	for _, tt := range []struct {
		name   string
		change func(*Settings)
		says   string
	}{
		{"no such file", func(a *Settings) { a.Credential.SecretAccessKeyFile = "/nowhere/at/all" }, "does not exist"},
		{"empty file", func(a *Settings) { a.Credential.AccessKeyIDFile = providertest.WriteFile(t, "id", " \n") }, "is empty"},
		{"two words", func(a *Settings) {
			a.Credential = good
			a.Credential.SecretAccessKeyFile = providertest.WriteFile(t, "key", "aws_secret_access_key = "+baseSecret)
		}, "more than one word"},
		{"no such profile", func(a *Settings) {
			a.Credential = profile("[q]\naws_access_key_id = a\naws_secret_access_key = " + baseSecret + "\n")
		}, "no usable section p"},
		{"half a profile", func(a *Settings) { a.Credential = profile("[p]\naws_secret_access_key = " + baseSecret + "\n") }, "no usable section p"},
		{"profile of a process", func(a *Settings) {
			a.Credential = profile("[p]\ncredential_process = /bin/echo " + baseSecret + "\n")
		}, "may contain only keys"},
		{"profile of a role", func(a *Settings) {
			a.Credential = profile("[p]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = q\n[q]\naws_access_key_id = a\naws_secret_access_key = b\n")
		}, "may contain only keys"},
		{"profile that is none", func(a *Settings) { a.Credential = profile(baseSecret) }, "aws.credential.credentials_file"},
		{"no token", func(a *Settings) {
			a.Credential = Credential{Type: WebIdentity, RoleARN: roleARN}
		}, "aws.credential.token_file is missing"},
		{"unknown type", func(a *Settings) { a.Credential = Credential{Type: "magic"} }, "aws.credential.type"},
		{"bad CA", func(a *Settings) { a.CAFile = providertest.WriteFile(t, "ca", "not PEM") }, "aws.ca_file"},
		{"no endpoint", func(a *Settings) { a.Endpoints = nil }, "aws.stores"},
		{"no stores", func(a *Settings) { a.Stores = nil }, "no aws settings"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := f.integration()
			tt.change(settingsOf(in))
			_, err := Opener(f.Config())(t.Context(), in)
			if err == nil {
				t.Fatal("opened")
			}
			if e := f.CheckError(err, secret.ReasonStoreAuthenticationFailed); !strings.Contains(e.Message, tt.says) {
				t.Errorf("%q does not say %q", e.Message, tt.says)
			}
		})
	}
	if _, err := Opener(provider.Config{})(t.Context(), &integration.Integration{Kind: secret.KindAWSSecretsManager}); err == nil {
		t.Error("an integration without settings was opened")
	}
}

// The default credential uses the sources of the SDK: here, the environment and a
// container's metadata service.
func TestDefaultCredential(t *testing.T) {
	f := newFake(t)
	f.put(region, "db", canary)
	none := providertest.WriteFile(t, "config", "")
	t.Setenv("AWS_CA_BUNDLE", "")
	for name, value := range map[string]string{"AWS_CONFIG_FILE": none, "AWS_SHARED_CREDENTIALS_FILE": none, "AWS_ACCESS_KEY_ID": baseKey, "AWS_SECRET_ACCESS_KEY": baseSecret} {
		t.Setenv(name, value)
	}
	in := f.integration()
	settingsOf(in).Credential = Credential{Type: DefaultCredential}
	f.Fetch(f.open(f.Config(), in), storeURL+"::db")

	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"AccessKeyId":%q,"SecretAccessKey":%q,"Token":"","Expiration":%q}`, baseKey, baseSecret, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	}))
	defer agent.Close()
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", agent.URL+"/creds")
	f.Fetch(f.open(f.Config(), in), storeURL+"::db")

	agent.Close()
	f.Fails(t.Context(), f.open(f.Config(), in), storeURL+"::db", secret.ReasonStoreUnavailable)

	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "")
	machine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "21600")
		const keys = "/latest/meta-data/iam/security-credentials/"
		switch {
		case r.Method == http.MethodPut:
			fmt.Fprint(w, "metadata-token")
		case r.Header.Get("X-Aws-Ec2-Metadata-Token") != "metadata-token":
			w.WriteHeader(http.StatusUnauthorized)
		case r.URL.Path == keys:
			fmt.Fprint(w, "broker")
		case r.URL.Path == keys+"broker":
			fmt.Fprintf(w, `{"Code":"Success","Type":"AWS-HMAC","AccessKeyId":%q,"SecretAccessKey":%q,"Token":"","Expiration":%q}`, baseKey, baseSecret, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
		}
	}))
	defer machine.Close()
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", machine.URL)
	f.Fetch(f.open(f.Config(), in), storeURL+"::db")

	t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", providertest.WriteFile(t, "token", oidcToken))
	t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::"+account+":role/broker")
	before := len(f.asked("AssumeRole"))
	f.Fetch(f.open(f.Config(), in), storeURL+"::db")
	if asked := f.asked("AssumeRole")[before:]; len(asked) != 2 || asked[0].operation != "AssumeRoleWithWebIdentity" {
		t.Errorf("with a web identity, STS was asked for %v", asked)
	}

	t.Setenv("AWS_CA_BUNDLE", f.CAFile)
	if _, err := Opener(f.Config())(t.Context(), in); err == nil || !strings.Contains(err.Error(), "AWS_CA_BUNDLE") {
		t.Errorf("with a CA bundle in the environment: %v", err)
	}
}
