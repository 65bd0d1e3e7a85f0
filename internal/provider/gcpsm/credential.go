package gcpsm

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google/externalaccount"
	"golang.org/x/oauth2/jwt"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider/egress"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// The OAuth scopes of tokens. The identity's roles determine what it may do within them.
const (
	// allScope is the only one that Secret Manager and IAM Service Account Credentials accept.
	allScope = "https://www.googleapis.com/auth/cloud-platform"
	// pubsubScope is for Pub/Sub only.
	pubsubScope = "https://www.googleapis.com/auth/pubsub"
)

const (
	oauthURL = "https://" + OAuthHost + "/token"
	stsURL   = "https://" + STSHost + "/v1/token"
)

// token is an access token. It is a credential: never print it.
type token struct {
	text    func() string // a func, so that reflection and therefore %v cannot reach the text
	expires time.Time
}

func newToken(text string, expires time.Time) token {
	return token{text: func() string { return text }, expires: expires}
}

// identity determines how the broker gets access tokens from Google, and which
// project pays for their use.
type identity struct {
	// steps run one after the other. Each makes one request and receives the token of
	// the previous step.
	steps []step
	// files are the files that the steps read each time.
	files []string
	// quotaProject is sent with every read; empty for the secret's own project.
	quotaProject string
}

// step gets a token from one endpoint.
type step struct {
	// who names the endpoint in messages; setting is what to check if the endpoint
	// refuses.
	who, setting string
	// get requests a token through client. It must not use a context other than ctx.
	get func(ctx context.Context, client *caller, before token) (token, error)
}

// newIdentity reads the files of a login of the integration. The identity's tokens have the
// scope. Its errors are *secret.Error that name the setting or file to fix, never a file's
// content.
func newIdentity(ctx context.Context, in *integration.Integration, l login, scope string) (*identity, error) {
	of := origin{setting: l.credentialAt, scope: scope}
	if l.account != "" {
		of.scope = allScope // for the impersonation
	}
	var id *identity
	var err error
	switch l.credential.Type {
	case MetadataServer:
		id = fromMetadataServer(of.at("type"))
	case WorkloadIdentityFederation:
		id, err = fromFile(of.at("config_file"), l.credential.ConfigFile, "external_account")
	case ServiceAccountKey:
		id, err = fromKey(ctx, in, of.at("key_file"), l.credential.KeyFile)
	case ApplicationDefault:
		id, err = fromDefault(of)
	default:
		return nil, storeerror.Setup("%s.type is not one of metadata_server, workload_identity_federation, service_account_key, application_default", l.credentialAt)
	}
	if err != nil {
		return nil, err
	}
	if l.account != "" {
		if !serviceAccount.MatchString(l.account) {
			return nil, storeerror.Setup("%s is not a service account's e-mail address", l.accountAt)
		}
		id.steps = append(id.steps, impersonation(l.account, origin{l.accountAt, scope}))
		id.quotaProject = ""
	}
	return id, nil
}

// origin is the setting that a step of an identity comes from, and the scope of its token.
type origin struct{ setting, scope string }

// at returns the origin with a setting below o's.
func (o origin) at(name string) origin { return origin{o.setting + "." + name, o.scope} }

// named returns the origin with something else that has the place of a setting in messages.
func (o origin) named(name string) origin { return origin{name, o.scope} }

// Google's own tools look for credentials in the file that defaultVariable names, or
// in gcloud's own file.
const defaultVariable = "GOOGLE_APPLICATION_CREDENTIALS"

// fromDefault looks for a credential where Google's tools do: in the file that the
// environment names, in gcloud's own file, at the metadata server.
func fromDefault(of origin) (*identity, error) {
	types := []string{"service_account", "external_account", "authorized_user"}
	if path := os.Getenv(defaultVariable); path != "" {
		return fromFile(of.named(defaultVariable), path, types...)
	}
	if home, err := os.UserHomeDir(); err == nil {
		path := filepath.Join(home, ".config", "gcloud", "application_default_credentials.json")
		if _, err := os.Stat(path); err == nil {
			return fromFile(of.named("gcloud's application default credentials"), path, types...)
		}
	}
	return fromMetadataServer(of.at("type")), nil
}

// credentialFile holds the fields that are checked in credential files of all types.
// The file may come from an untrusted source. Therefore a field that names a
// destination for requests must name one of Google's, or the file is refused.
type credentialFile struct {
	Type           string `json:"type"`
	UniverseDomain string `json:"universe_domain"`
	QuotaProjectID string `json:"quota_project_id"`

	// For the type service_account.
	ClientEmail  string `json:"client_email"`
	PrivateKey   string `json:"private_key"`
	PrivateKeyID string `json:"private_key_id"`
	TokenURI     string `json:"token_uri"`

	// For the type authorized_user.
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`
	RefreshToken string `json:"refresh_token"`

	externalAccount
}

// fromKey returns the identity of a service account's key. The owner of the
// integration may store a key with it, because a key names nothing on the broker's
// machine. The configuration of a federation does, so it is accepted only from files.
func fromKey(ctx context.Context, in *integration.Integration, of origin, path string) (*identity, error) {
	data, err := egress.ReadPrivateKey(ctx, in.Stored(of.setting), of.setting, path)
	if err != nil {
		return nil, err
	}
	return fromJSON(of, egress.CredentialSource(path), data, "service_account")
}

// fromFile returns the identity of a credential file, which must have one of types.
func fromFile(of origin, path string, types ...string) (*identity, error) {
	data, err := egress.ReadFile(of.setting, path)
	if err != nil {
		return nil, err
	}
	return fromJSON(of, path, data, types...)
}

// fromJSON returns the identity of data, the content of path. It takes ownership of
// data.
func fromJSON(of origin, path string, data []byte, types ...string) (*identity, error) {
	setting := of.setting
	defer clear(data)
	var f credentialFile
	if json.Unmarshal(data, &f) != nil { // the error quotes the content
		return nil, storeerror.Setup("%s: %s is not a credential file of Google in JSON form", setting, path)
	}
	if !slices.Contains(types, f.Type) {
		return nil, storeerror.Setup(`%s: %s is not a credential of the right type: expected "type": %q`, setting, path, types)
	}
	if f.UniverseDomain != "" && f.UniverseDomain != "googleapis.com" {
		return nil, storeerror.Setup("%s: %s is for another universe domain than googleapis.com, which is not supported", setting, path)
	}
	var id *identity
	var fault string
	switch f.Type {
	case "service_account":
		id, fault = f.serviceAccountKey(of)
	case "external_account":
		id, fault = f.federation(of)
	default:
		id, fault = f.user(of)
	}
	if fault != "" {
		return nil, storeerror.Setup("%s: %s: %s", setting, path, fault)
	}
	return id, nil
}

// tokenURIs are the values that Google has written into key files over the years.
var tokenURIs = []string{"", oauthURL, "https://accounts.google.com/o/oauth2/token", "https://www.googleapis.com/oauth2/v4/token"}

func (f *credentialFile) serviceAccountKey(of origin) (_ *identity, fault string) {
	switch {
	case !serviceAccount.MatchString(f.ClientEmail):
		return nil, "client_email is not a service account's e-mail address"
	case !slices.Contains(tokenURIs, f.TokenURI):
		return nil, "token_uri is not Google's; take the file as the console or gcloud wrote it"
	case !isRSAKey(f.PrivateKey):
		return nil, "private_key is not an RSA key in PEM form"
	}
	conf := &jwt.Config{
		Email: f.ClientEmail, PrivateKey: []byte(f.PrivateKey), PrivateKeyID: f.PrivateKeyID,
		Scopes: []string{of.scope}, TokenURL: oauthURL,
	}
	return &identity{steps: []step{{
		who: oauthEndpoint, setting: of.setting,
		get: func(ctx context.Context, client *caller, _ token) (token, error) {
			return result(conf.TokenSource(client.oauth(ctx)).Token())
		},
	}}}, ""
}

func (f *credentialFile) user(of origin) (_ *identity, fault string) {
	if f.ClientID == "" || f.ClientSecret == "" || f.RefreshToken == "" {
		return nil, "client_id, client_secret or refresh_token is missing"
	}
	if f.QuotaProjectID != "" && !projectID.MatchString(f.QuotaProjectID) {
		return nil, "quota_project_id is not a project's ID"
	}
	conf := &oauth2.Config{
		ClientID: f.ClientID, ClientSecret: f.ClientSecret, Scopes: []string{of.scope},
		Endpoint: oauth2.Endpoint{TokenURL: oauthURL, AuthStyle: oauth2.AuthStyleInParams},
	}
	refresh := f.RefreshToken
	return &identity{quotaProject: f.QuotaProjectID, steps: []step{{
		who: oauthEndpoint, setting: of.setting,
		get: func(ctx context.Context, client *caller, _ token) (token, error) {
			return result(conf.TokenSource(client.oauth(ctx), &oauth2.Token{RefreshToken: refresh}).Token())
		},
	}}}, ""
}

func (f *credentialFile) federation(of origin) (_ *identity, fault string) {
	account, fault := f.check()
	if fault != "" {
		return nil, fault
	}
	source := subjectToken{setting: of.setting + ", credential_source.file", path: f.CredentialSource.File, field: f.CredentialSource.field()}
	if _, err := source.read(); err != nil {
		return nil, secret.AsError(err).Message
	}
	conf := externalaccount.Config{
		Audience: f.Audience, SubjectTokenType: f.SubjectTokenType, TokenURL: stsURL,
		SubjectTokenSupplier: source, Scopes: []string{of.scope},
	}
	if account != "" {
		conf.Scopes = []string{allScope} // for the impersonation
	}
	id := &identity{files: []string{source.path}, steps: []step{{
		who: stsEndpoint, setting: of.setting,
		get: func(ctx context.Context, client *caller, _ token) (token, error) {
			ts, err := externalaccount.NewTokenSource(client.oauth(ctx), conf)
			if err != nil {
				return token{}, err
			}
			return result(ts.Token())
		},
	}}}
	if account != "" {
		id.steps = append(id.steps, impersonation(account, of))
	}
	return id, ""
}

// result converts what the library returns to a token. For some responses the library
// returns tokens without an expiry, which result refuses.
func result(t *oauth2.Token, err error) (token, error) {
	switch {
	case err != nil:
		return token{}, err
	case t.AccessToken == "" || t.Expiry.IsZero():
		return token{}, errNoToken
	}
	return newToken(t.AccessToken, t.Expiry), nil
}

// errNoToken is the error for a 200 response without a token that has an expiry.
var errNoToken = errors.New("gcpsm: the response has no access token with an expiry")

var (
	// serviceAccount matches only characters that are safe in a URL path, as the
	// settings do.
	serviceAccount = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?@([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.){1,4}gserviceaccount\.com$`)
	projectID      = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{3,28}[a-z0-9]$`)
)

// impersonationURL is the endpoint that issues tokens of a service account to
// identities with the required role. The path is safe because account matches
// serviceAccount.
func impersonationURL(account string) string {
	u := url.URL{Scheme: "https", Host: IAMCredentialsHost, Path: "/v1/projects/-/serviceAccounts/" + account + ":generateAccessToken"}
	return u.String()
}

// isRSAKey reports whether text is a private key that the library can sign with.
func isRSAKey(text string) bool {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return false
	}
	if key, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
		_, ok := key.(*rsa.PrivateKey)
		return ok
	}
	_, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	return err == nil
}
