package azurekv

import (
	"net/url"
	"regexp"
	"strings"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// EventSettings describes the queue of Azure Storage that Event Grid delivers the events of
// the vaults to.
type EventSettings struct {
	// QueueURL is https://ACCOUNT.SUFFIX/QUEUE, in lower case, of the cloud of the vaults.
	// It is empty if there is no source of events.
	QueueURL string
	// TenantID, ClientID and Credential are those of the identity that receives. If
	// Credential.Type is empty, it is the identity that reads the vaults.
	TenantID   string
	ClientID   string
	Credential Credential
}

type eventsSection struct {
	QueueURL   string            `yaml:"queue_url"`
	TenantID   string            `yaml:"tenant_id"`
	ClientID   string            `yaml:"client_id"`
	Credential credentialSection `yaml:"credential"`
}

// EventSource implements integration.EventSettings.
func (a *Settings) EventSource() string { return a.Events.QueueURL }

// eventIdentity returns the identity that receives events.
func (a *Settings) eventIdentity() identity {
	e := a.Events
	if e.Credential.Type == "" {
		return a.identity()
	}
	return identity{section: "azure.events", tenantID: e.TenantID, clientID: e.ClientID, credential: e.Credential}
}

// host returns the host of the queue, or "".
func (e *EventSettings) host() string {
	u, err := url.Parse(e.QueueURL)
	if err != nil {
		return ""
	}
	return u.Host
}

func (e *EventSettings) list() []integration.Setting {
	return []integration.Setting{
		{Name: "azure.events.queue_url", Value: e.QueueURL},
		{Name: "azure.events.tenant_id", Value: e.TenantID},
		{Name: "azure.events.client_id", Value: e.ClientID},
		{Name: "azure.events.credential.type", Value: string(e.Credential.Type)},
		{Name: "azure.events.credential.send_certificate_chain", Value: integration.IfSet(e.Credential.SendCertificateChain)},
	}
}

// events validates the section events. vaults are in canonical form.
func (p parser) events(s eventsSection, vaults []string) EventSettings {
	const section = "azure.events"
	if !p.Has(section) {
		return EventSettings{}
	}
	e := EventSettings{TenantID: s.TenantID, ClientID: s.ClientID, QueueURL: p.queueURL(section+".queue_url", s.QueueURL, vaults)}
	p.identifiers(section, s.TenantID, s.ClientID)
	if p.Has(section + ".credential") {
		e.Credential = p.credential(section, s.Credential)
		return e
	}
	for _, id := range []string{section + ".tenant_id", section + ".client_id"} {
		if p.Has(id) {
			p.Fault(id, "belongs to the identity of %[1]s.credential; remove it, or set %[1]s.credential", section)
		}
	}
	return e
}

func (p parser) queueURL(path, s string, vaults []string) string {
	if !p.Has(path) {
		p.Fault(path, "missing; it is required: the URL of the queue that Event Grid delivers to, such as https://ACCOUNT.queue.core.windows.net/QUEUE")
		return ""
	}
	queue, cloud, fault := parseQueueURL(s)
	if fault != "" {
		p.Fault(path, "%s", fault)
		return ""
	}
	if len(vaults) > 0 {
		if of, _ := secret.AzureCloudOf(vaults[0]); of.Name != cloud {
			p.Fault(path, "a queue of %s, but the vaults are of %s; the identity of one cloud has no access to the other", cloud, of.Name)
		}
	}
	return queue
}

var (
	storageAccount = regexp.MustCompile(`^[0-9a-z]{3,24}$`)
	// zonedQueueHost is the host of an account with Azure DNS zone endpoints, which only
	// Azure's public cloud has.
	zonedQueueHost = regexp.MustCompile(`^[0-9a-z]{3,24}\.z[0-9]{2}\.queue\.storage\.azure\.net$`)
	queueName      = regexp.MustCompile(`^[0-9a-z](-?[0-9a-z])*$`)
)

// parseQueueURL returns the canonical form of the URL of a queue and the name of its cloud.
// fault describes what is wrong with s, without quoting it: it may contain a signature.
func parseQueueURL(s string) (queue, cloud, fault string) {
	const expected = "expected https://ACCOUNT.queue.core.windows.net/QUEUE"
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Scheme != "https" || u.Host == "" || strings.ContainsAny(s, "#@\\%"):
		return "", "", expected
	case u.RawQuery != "" || u.ForceQuery:
		return "", "", expected + " without a query; shared access signatures are not supported, use an identity of Entra ID"
	case u.Port() != "" && u.Port() != "443" || strings.HasSuffix(u.Host, ":"):
		return "", "", expected + " without a port; to connect elsewhere, set azure.dial"
	}
	host := strings.ToLower(u.Hostname())
	if cloud = queueCloud(host); cloud == "" {
		if strings.Contains(host, ".privatelink.") {
			return "", "", "the host is the name of a private endpoint; write the account's public name (ACCOUNT.queue.core.windows.net), and set azure.private_endpoint"
		}
		return "", "", expected + ", or the suffix of another cloud (.queue.core.chinacloudapi.cn, .queue.core.usgovcloudapi.net); the account's name has 3 to 24 lower-case letters and digits"
	}
	name := strings.TrimSuffix(strings.TrimPrefix(u.Path, "/"), "/")
	if len(name) < 3 || len(name) > 63 || !queueName.MatchString(name) {
		return "", "", expected + "; the queue's name has 3 to 63 lower-case letters, digits and single hyphens, and begins and ends with a letter or digit"
	}
	return "https://" + host + "/" + name, cloud, ""
}

// queueCloud returns the name of the cloud of a host of queues, or "" if it is none.
func queueCloud(host string) string {
	if cloud, account, ok := secret.AzureCloudOfQueue(host); ok && storageAccount.MatchString(account) {
		return cloud.Name
	}
	if zonedQueueHost.MatchString(host) {
		public, _ := secret.AzureCloudOf("https://v.vault.azure.net")
		return public.Name
	}
	return ""
}
