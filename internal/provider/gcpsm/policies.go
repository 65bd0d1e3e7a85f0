package gcpsm

import (
	"slices"
	"strings"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
)

var _ integration.Policied = (*Settings)(nil)

// CloudPolicies implements integration.Policied. Google has no policy documents to paste, so
// it returns the commands that set up events for the secrets in the grants.
func (g *Settings) CloudPolicies(grants *authz.Policy) []integration.CloudPolicy {
	if g.Events == nil {
		return nil
	}
	return []integration.CloudPolicy{{
		ID: "GCP_EVENT_COMMANDS", Title: "commands that set up the events of Secret Manager for the subscription " + g.Events.Subscription,
		JSON: strings.Join(g.eventCommands(grants), "\n"),
	}}
}

// eventCommands returns the gcloud commands that create a topic and the subscription, and that
// let Secret Manager publish to the topic. Capitalized words in angle brackets are placeholders.
// The values have been validated, so that the shell takes each as one word.
func (g *Settings) eventCommands(grants *authz.Policy) []string {
	name, account := g.Events.Subscription, g.eventsLogin().account
	topic := strings.Replace(name, "/subscriptions/", "/topics/", 1)
	if account == "" {
		account = "<THE IDENTITY THAT RECEIVES EVENTS>"
	}
	commands := []string{
		"gcloud pubsub topics create " + topic,
		// The broker extends the deadline of what it has received. The short one is for
		// messages that were sent on a connection that broke.
		"gcloud pubsub subscriptions create " + name + " --topic=" + topic + " --ack-deadline=10 --message-retention-duration=1h --expiration-period=never",
		"gcloud pubsub subscriptions add-iam-policy-binding " + name + " --member=serviceAccount:" + account + " --role=roles/pubsub.subscriber",
	}
	var projects []string
	for _, store := range g.Stores {
		if project, _ := splitStore(store); !slices.Contains(projects, project) {
			projects = append(projects, project)
			commands = append(commands,
				"AGENT=$(gcloud beta services identity create --service=secretmanager.googleapis.com --project="+project+" --format='value(email)')",
				"gcloud pubsub topics add-iam-policy-binding "+topic+" --member=serviceAccount:$AGENT --role=roles/pubsub.publisher")
		}
	}
	for _, store := range g.Stores {
		project, place := splitStore(store)
		where := " --project=" + project
		if location, ok := strings.CutPrefix(place, "locations/"); ok {
			where += " --location=" + location
		}
		for _, secret := range grantedNames(grants, store) {
			commands = append(commands, "gcloud secrets update "+secret+where+" --add-topics="+topic)
		}
	}
	return commands
}

// grantedNames returns the names of secrets of a store in the grants, and a placeholder if they
// permit others.
func grantedNames(grants *authz.Policy, store string) []string {
	var names []string
	for _, rule := range grants.Rules() {
		name := rule.Secret
		if strings.HasSuffix(name, "*") {
			name = "<SECRET " + name + ">"
		}
		if rule.Store == store && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}
