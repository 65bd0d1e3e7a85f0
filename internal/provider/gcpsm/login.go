package gcpsm

import "slices"

// The hosts that issue access tokens. Source: the API discovery documents of OAuth
// 2.0, Security Token Service and IAM Service Account Credentials.
const (
	OAuthHost          = "oauth2.googleapis.com"
	STSHost            = "sts.googleapis.com"
	IAMCredentialsHost = "iamcredentials.googleapis.com"
)

// login is a credential and the service account that it impersonates, if any, with the names
// of the settings that configure them.
type login struct {
	credential Credential
	// credentialAt is "gcp.credential" or "gcp.events.credential".
	credentialAt string
	account      string
	// accountAt is "gcp.impersonate_service_account" or that of gcp.events.
	accountAt string
}

// readLogin returns the login of the identity that reads secrets.
func (g *Settings) readLogin() login {
	return login{
		credential: g.Credential, credentialAt: "gcp.credential",
		account: g.ImpersonateServiceAccount, accountAt: "gcp.impersonate_service_account",
	}
}

// eventsLogin returns the login of the identity that receives events.
func (g *Settings) eventsLogin() login {
	l, e := g.readLogin(), g.Events
	if !e.ownsIdentity() {
		return l
	}
	if e.Credential != nil {
		l.credential, l.credentialAt = *e.Credential, "gcp.events.credential"
	}
	l.account, l.accountAt = e.ImpersonateServiceAccount, "gcp.events.impersonate_service_account"
	return l
}

// hosts returns the hosts that may be asked for access tokens. The metadata server is not
// among them.
func (l login) hosts() []string {
	var hosts []string
	switch l.credential.Type {
	case WorkloadIdentityFederation:
		// The file may also request a service account's token.
		return []string{STSHost, IAMCredentialsHost}
	case ServiceAccountKey:
		hosts = []string{OAuthHost}
	case ApplicationDefault:
		return []string{OAuthHost, STSHost, IAMCredentialsHost}
	}
	if l.account != "" {
		hosts = append(hosts, IAMCredentialsHost)
	}
	return hosts
}

// hosts returns all hosts that the integration contacts, each once. The metadata server is
// not among them.
func (g *Settings) hosts() []string {
	hosts := slices.Concat(g.Endpoints(), g.readLogin().hosts())
	if g.Events != nil {
		for _, host := range append([]string{g.Events.Host}, g.eventsLogin().hosts()...) {
			if host != "" && !slices.Contains(hosts, host) {
				hosts = append(hosts, host)
			}
		}
	}
	return hosts
}
