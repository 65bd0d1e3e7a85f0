package gcpsm

import (
	"context"
	"encoding/json"
	"path/filepath"
	"regexp"
	"slices"

	"golang.org/x/oauth2/google/externalaccount"

	"github.com/secretbroker/secretbroker/internal/provider/egress"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
)

// externalAccount is the supported part of a configuration for workload identity
// federation: a token in a file. The format can also name programs to run, URLs to
// fetch and cloud metadata to request. These are refused, because they would give the
// author of the file control over the broker.
type externalAccount struct {
	Audience                       string `json:"audience"`
	SubjectTokenType               string `json:"subject_token_type"`
	TokenURL                       string `json:"token_url"`
	ServiceAccountImpersonationURL string `json:"service_account_impersonation_url"`

	CredentialSource credentialSource `json:"credential_source"`
}

type credentialSource struct {
	File   string `json:"file"`
	Format struct {
		Type  string `json:"type"`
		Field string `json:"subject_token_field_name"`
	} `json:"format"`

	// Each of these is refused if it is present.
	URL           json.RawMessage `json:"url"`
	Executable    json.RawMessage `json:"executable"`
	EnvironmentID json.RawMessage `json:"environment_id"`
	Certificate   json.RawMessage `json:"certificate"`
}

// field returns the member of the token file that holds the token; empty if the token
// is the whole file.
func (s credentialSource) field() string {
	if s.Format.Type == "json" {
		return s.Format.Field
	}
	return ""
}

var (
	workloadAudience  = regexp.MustCompile(`^//iam\.googleapis\.com/projects/[0-9]{1,19}/locations/[a-z0-9-]{1,40}/workloadIdentityPools/[a-z0-9-]{1,63}/providers/[a-z0-9-]{1,63}$`)
	impersonated      = regexp.MustCompile(`^https://iamcredentials\.googleapis\.com/v1/projects/-/serviceAccounts/([^/:?#]+):generateAccessToken$`)
	subjectTokenTypes = []string{
		"urn:ietf:params:oauth:token-type:jwt",
		"urn:ietf:params:oauth:token-type:id_token",
		"urn:ietf:params:oauth:token-type:saml2",
	}
)

// check returns the service account that the configuration names, if any, or the
// fault of the configuration.
func (e *externalAccount) check() (account, fault string) {
	s := e.CredentialSource
	switch {
	case s.Executable != nil:
		return "", "credential_source.executable names a program, which the broker does not run: write the token to a file and set credential_source.file"
	case s.URL != nil:
		return "", "credential_source.url is not supported: write the token to a file and set credential_source.file"
	case s.EnvironmentID != nil, s.Certificate != nil:
		return "", "credential_source supports only file: write the token to a file and set credential_source.file"
	case !filepath.IsAbs(s.File):
		return "", "credential_source.file is not the absolute path of a file"
	case s.Format.Type != "" && s.Format.Type != "text" && s.Format.Type != "json",
		(s.Format.Type == "json") != (s.Format.Field != ""):
		return "", "credential_source.format is neither text nor json with a subject_token_field_name"
	case !workloadAudience.MatchString(e.Audience):
		return "", "audience is not a provider of a workload identity pool, //iam.googleapis.com/projects/NUMBER/locations/global/workloadIdentityPools/POOL/providers/PROVIDER"
	case !slices.Contains(subjectTokenTypes, e.SubjectTokenType):
		return "", "subject_token_type is not that of a JWT, an ID token or a SAML assertion"
	case e.TokenURL != "" && e.TokenURL != stsURL:
		return "", "token_url is not " + stsURL + ", the only endpoint to which the broker sends the token"
	case e.ServiceAccountImpersonationURL == "":
		return "", ""
	}
	m := impersonated.FindStringSubmatch(e.ServiceAccountImpersonationURL)
	if m == nil || !serviceAccount.MatchString(m[1]) {
		return "", "service_account_impersonation_url is not https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/ACCOUNT:generateAccessToken"
	}
	return m[1], ""
}

// subjectToken is the file with the token of the other identity provider. The file is
// read for every exchange, because such tokens live for minutes.
type subjectToken struct{ setting, path, field string }

// SubjectToken implements externalaccount.SubjectTokenSupplier.
func (s subjectToken) SubjectToken(context.Context, externalaccount.SupplierOptions) (string, error) {
	return s.read()
}

func (s subjectToken) read() (string, error) {
	data, err := egress.ReadFile(s.setting, s.path)
	if err != nil {
		return "", err
	}
	if s.field == "" {
		return string(data), nil
	}
	var members map[string]json.RawMessage
	var text string
	if json.Unmarshal(data, &members) != nil || json.Unmarshal(members[s.field], &text) != nil || text == "" {
		return "", storeerror.Setup("%s: %s is not a JSON object with the token in the member that credential_source.format names", s.setting, s.path)
	}
	return text, nil
}
