package gcpsm

import (
	"regexp"
	"strings"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/secret"
)

var _ integration.EventSettings = (*Settings)(nil)

// Events configures the subscription of Pub/Sub that receives the notifications of Secret
// Manager.
type Events struct {
	// Subscription is its resource name, "projects/PROJECT/subscriptions/NAME".
	Subscription string
	// Host is the endpoint of Pub/Sub.
	Host string
	// Credential is the credential for the subscription; nil means that of the integration.
	Credential *Credential
	// ImpersonateServiceAccount is the service account that the credential impersonates for
	// the subscription. If Credential is nil and this is empty, the integration's identity is
	// used, with the service account that it impersonates.
	ImpersonateServiceAccount string
}

// EventSource implements integration.EventSettings: the name of the subscription.
func (g *Settings) EventSource() string {
	if g.Events == nil {
		return ""
	}
	return g.Events.Subscription
}

// ownsIdentity reports whether events are received with another identity than that which
// reads secrets.
func (e *Events) ownsIdentity() bool {
	return e.Credential != nil || e.ImpersonateServiceAccount != ""
}

// list returns the settings for display.
func (e *Events) list() []integration.Setting {
	if e == nil {
		return nil
	}
	settings := []integration.Setting{
		{Name: "gcp.events.subscription", Value: e.Subscription},
		{Name: "gcp.events.impersonate_service_account", Value: e.ImpersonateServiceAccount},
	}
	if c := e.Credential; c != nil {
		settings = append(settings,
			integration.Setting{Name: "gcp.events.credential.type", Value: string(c.Type)},
			integration.Setting{Name: "gcp.events.credential.config_file", Value: integration.IfFile(c.ConfigFile)},
			integration.Setting{Name: "gcp.events.credential.key_file", Value: integration.IfFile(c.KeyFile)},
		)
	}
	return settings
}

type eventsSection struct {
	Subscription              string            `yaml:"subscription"`
	ImpersonateServiceAccount string            `yaml:"impersonate_service_account"`
	Credential                credentialSection `yaml:"credential"`
}

// events returns nil if the section has no source of events.
func (p parser) events(s *section) *Events {
	const at = "gcp.events"
	if !p.Has(at) {
		return nil
	}
	e := &Events{Subscription: s.Events.Subscription, Host: pubsubHost, ImpersonateServiceAccount: s.Events.ImpersonateServiceAccount}
	const expected = "projects/PROJECT/subscriptions/NAME"
	switch {
	case !p.Has(at + ".subscription"):
		p.Fault(at+".subscription", "missing; it is required: the Pub/Sub subscription, "+expected)
	case strings.Contains(e.Subscription, "/topics/"):
		p.Fault(at+".subscription", "this is a topic; create a subscription of it, and name it as "+expected)
	case !isSubscription(e.Subscription):
		p.Fault(at+".subscription", "expected "+expected+", as \"gcloud pubsub subscriptions list\" shows it")
	}
	if p.Has(at + ".credential") {
		c := p.credential(at+".credential", s.Events.Credential)
		e.Credential = &c
	}
	p.account(at+".impersonate_service_account", e.ImpersonateServiceAccount)
	return e
}

// pubsubHost is the endpoint of Pub/Sub for pulling, from all regions.
const pubsubHost = "pubsub.googleapis.com"

// subscriptionName matches the names of subscriptions. Source: Pub/Sub, "Guidelines to name a
// topic or a subscription". It leaves out percent signs, which would need escaping in a URL.
var subscriptionName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._~+-]{2,254}$`)

// isSubscription reports whether name is the resource name of a subscription.
func isSubscription(name string) bool {
	project, name, ok := strings.Cut(name, "/subscriptions/")
	if !ok || !subscriptionName.MatchString(name) || strings.HasPrefix(strings.ToLower(name), "goog") || strings.Contains(project, "/locations/") {
		return false
	}
	store, err := secret.KindGCPSecretManager.ParseStore(project)
	return err == nil && store == project
}
