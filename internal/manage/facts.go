package manage

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/secretbroker/secretbroker/internal/integration"
)

// facts are the lines about one integration.
type facts []Fact

// add leaves out what is empty.
func (f *facts) add(name, value string) {
	if value != "" {
		*f = append(*f, Fact{name, value})
	}
}

// all adds a line for each value, sorted.
func (f *facts) all(name string, values []string) {
	for _, v := range slices.Sorted(slices.Values(values)) {
		f.add(name, v)
	}
}

// factsOf returns what a person needs to know to set an integration up at its
// stores.
func factsOf(in *integration.Integration) []Fact {
	var f facts
	f.add("Cloud", in.Placement.Cloud)
	f.add("Region", in.Placement.Region)
	switch {
	case in.Azure != nil:
		f.azure(in.Azure)
	case in.AWS != nil:
		f.aws(in.AWS)
	case in.GCP != nil:
		f.gcp(in.GCP)
	case in.Vault != nil:
		f.vault(in.Vault)
	case in.Local != nil:
		f.all("Directory", in.Local.Directories)
		f.all("Environment variable", in.Local.Environment)
		f.add("To allow", "the broker's user must be able to read the files")
	}
	return f
}

func (f *facts) azure(a *integration.Azure) {
	f.add("Tenant ID", a.TenantID)
	f.add("Client ID", a.ClientID)
	f.add("Credential", string(a.Credential.Type))
	f.add("Login authority", a.AuthorityHost)
	f.all("Vault", a.Vaults)
	f.add("Role to assign", "Key Vault Secrets User, to this identity, on each vault")
}

func (f *facts) aws(a *integration.AWS) {
	f.add("Account", a.AccountID)
	f.add("Credential", string(a.Credential.Type))
	f.add("Broker's role", a.Credential.RoleARN)
	if a.Role != nil {
		f.add("Role", a.Role.ARN)
		f.add("External ID", a.Role.ExternalID)
		f.add("Session", fmt.Sprintf("for %s", shortDuration(a.Role.Duration.String())))
		f.add("Source identity", a.Role.SourceIdentity)
		for _, key := range slices.Sorted(maps.Keys(a.Role.Tags)) {
			f.add("Session tag", key+"="+a.Role.Tags[key])
		}
	}
	f.all("Store", a.Stores)
	if a.Role == nil {
		f.add("To allow", "secretsmanager:GetSecretValue on the secrets, to this identity")
	}
}

func (f *facts) gcp(g *integration.GCP) {
	f.add("Credential", string(g.Credential.Type))
	f.add("Service account", g.ImpersonateServiceAccount)
	f.all("Project", g.Stores)
	if g.ImpersonateServiceAccount != "" {
		f.add("Role to grant", "Service Account Token Creator (roles/iam.serviceAccountTokenCreator), to the credential's identity, on the service account")
	}
	f.add("Role to grant", "Secret Manager Secret Accessor (roles/secretmanager.secretAccessor), to the identity that reads, on the secrets")
}

func (f *facts) vault(v *integration.Vault) {
	f.add("Server", v.Address)
	f.add("Namespace", v.Namespace)
	login := string(v.Auth.Type)
	if v.Auth.Mount != "" {
		login += " at auth/" + v.Auth.Mount
	}
	f.add("Login", login)
	f.add("Vault role", v.Auth.Role)
	f.add("Role ID", v.Auth.RoleID)
	var rules []string
	for _, m := range v.Mounts {
		path := m.Path + "/*"
		if m.Engine == integration.VaultKV2 {
			path = m.Path + "/data/*"
		}
		f.add("Mount", fmt.Sprintf("%s (%s)", m.Path, m.Engine))
		rules = append(rules, fmt.Sprintf("path %q {\n  capabilities = [\"read\"]\n}", path))
	}
	// With more than one line it is a document to paste.
	f.add("Policy of the role, to narrow to what the grants give", strings.Join(rules, "\n"))
}

// shortDuration leaves the zeros out that time.Duration writes.
func shortDuration(s string) string {
	return strings.TrimSuffix(strings.TrimSuffix(s, "0s"), "0m")
}

// withPolicies adds the documents to paste at the cloud. They are as long as the
// grants are many, and not for lists.
func withPolicies(in Integration, of *integration.Integration) Integration {
	if of == nil {
		return in
	}
	for _, p := range of.CloudPolicies() {
		title := strings.ToUpper(p.Title[:1]) + p.Title[1:]
		in.Facts = append(in.Facts, Fact{title, p.JSON})
	}
	return in
}
