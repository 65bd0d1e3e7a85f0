package kinds

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider/gcpsm"
)

func parseGCP(section string) integration.ParsedFile {
	return All().ParseFile("/d/x.yaml", []byte("id: x\nkind: GCP_SECRET_MANAGER\ngcp:\n  projects: [projects/my-project]\n"+section), sound)
}

const (
	gcpMachine  = "  credential: {type: metadata_server}\n"
	gcpEventsOf = "projects/my-project/subscriptions/secretbroker"
)

func TestParseGCPEvents(t *testing.T) {
	for name, tt := range map[string]struct {
		section string
		want    gcpsm.Events
	}{
		"the integration's identity": {gcpMachine + "  events: {subscription: " + gcpEventsOf + "}\n", gcpsm.Events{}},
		"an account of its own": {gcpMachine + "  events: {subscription: " + gcpEventsOf + ", impersonate_service_account: events@my-project.iam.gserviceaccount.com}\n",
			gcpsm.Events{ImpersonateServiceAccount: "events@my-project.iam.gserviceaccount.com"}},
		"a credential of its own, and hosts to dial": {gcpMachine + "  events: {subscription: " + gcpEventsOf + ", credential: {type: service_account_key, key_file: k}}\n" +
			"  dial: {pubsub.googleapis.com: '10.0.0.5:443', oauth2.googleapis.com: '10.0.0.5:443'}\n",
			gcpsm.Events{Credential: &gcpsm.Credential{Type: gcpsm.ServiceAccountKey, KeyFile: "/d/k"}}},
	} {
		got := parseGCP(tt.section)
		if err := got.Faults.Err(); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		tt.want.Subscription, tt.want.Host = gcpEventsOf, "pubsub.googleapis.com"
		if diff := cmp.Diff(&tt.want, got.Integration.Settings.(*gcpsm.Settings).Events); diff != "" || got.Integration.EventSource() != gcpEventsOf {
			t.Errorf("%s: source %q, %s", name, got.Integration.EventSource(), diff)
		}
		settings := make(map[string]string)
		for _, s := range got.Integration.ListSettings() {
			settings[s.Name] = s.Value
		}
		if settings["gcp.events.subscription"] != gcpEventsOf || settings["gcp.events.impersonate_service_account"] != tt.want.ImpersonateServiceAccount ||
			(settings["gcp.events.credential.key_file"] != "") != (tt.want.Credential != nil) {
			t.Errorf("%s: settings %v", name, settings)
		}
	}
	if in := parseGCP(gcpMachine).Integration; in.EventSource() != "" || in.CloudPolicies() != nil {
		t.Errorf("without events: %q, %v", in.EventSource(), in.CloudPolicies())
	}
}

func TestParseGCPEventsFaults(t *testing.T) {
	const subscription = "gcp.events.subscription: "
	for section, want := range map[string]string{
		"{credential: {type: metadata_server}}":                                          subscription + "missing",
		"{subscription: secretbroker}":                                                   subscription + "expected projects/PROJECT/subscriptions/NAME",
		"{subscription: projects/my-project/topics/secret-events}":                       subscription + "this is a topic",
		"{subscription: projects/my-project/subscriptions/ab}":                           subscription + "expected",
		"{subscription: projects/my-project/subscriptions/googly}":                       subscription + "expected",
		"{subscription: 'projects/my-project/subscriptions/a/b'}":                        subscription + "expected",
		"{subscription: 'projects/my-project/subscriptions/abc:pull?x'}":                 subscription + "expected",
		"{subscription: 'projects/my-project/subscriptions/abc%2f..'}":                   subscription + "expected",
		"{subscription: projects/../subscriptions/abc}":                                  subscription + "expected",
		"{subscription: projects/my-project/locations/eu/subscriptions/abc}":             subscription + "expected",
		"{subscription: " + gcpEventsOf + ", credential: {type: service_account_key}}":   "gcp.events.credential.key_file: missing",
		"{subscription: " + gcpEventsOf + ", credential: {type: adc}}":                   "gcp.events.credential.type: expected application_default",
		"{subscription: " + gcpEventsOf + ", impersonate_service_account: me@x.example}": "gcp.events.impersonate_service_account: expected",
		"{subscription: " + gcpEventsOf + ", topic: x}":                                  `unknown setting "topic"`,
	} {
		got := parseGCP(gcpMachine + "  events: " + section + "\n")
		if err := got.Faults.Err(); got.Integration != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", section, err, want)
		}
	}
	got := parseGCP(gcpMachine + "  dial: {pubsub.googleapis.com: '10.0.0.5:443'}\n")
	if err := got.Faults.Err(); err == nil || !strings.Contains(err.Error(), "not a host that this integration contacts") {
		t.Errorf("dial of Pub/Sub without events: %v", err)
	}
}

// TestGCPEventCommands: the commands to paste name the secrets in the grants, and the identity
// that receives.
func TestGCPEventCommands(t *testing.T) {
	in := parseGCP(gcpMachine + `  impersonate_service_account: reader@my-project.iam.gserviceaccount.com
  events: {subscription: ` + gcpEventsOf + `}
grants:
  - {principals: [dns:a.example.org], secrets: [db, "sqlserver-*"]}
  - {principals: [dns:b.example.org], secrets: [db]}
`).Integration
	const topic = "projects/my-project/topics/secretbroker"
	want := []integration.CloudPolicy{{
		ID: "GCP_EVENT_COMMANDS", Title: "commands that set up the events of Secret Manager for the subscription " + gcpEventsOf,
		JSON: `gcloud pubsub topics create ` + topic + `
gcloud pubsub subscriptions create ` + gcpEventsOf + ` --topic=` + topic + ` --ack-deadline=10 --message-retention-duration=1h --expiration-period=never
gcloud pubsub subscriptions add-iam-policy-binding ` + gcpEventsOf + ` --member=serviceAccount:reader@my-project.iam.gserviceaccount.com --role=roles/pubsub.subscriber
AGENT=$(gcloud beta services identity create --service=secretmanager.googleapis.com --project=my-project --format='value(email)')
gcloud pubsub topics add-iam-policy-binding ` + topic + ` --member=serviceAccount:$AGENT --role=roles/pubsub.publisher
gcloud secrets update db --project=my-project --add-topics=` + topic + `
gcloud secrets update <SECRET sqlserver-*> --project=my-project --add-topics=` + topic,
	}}
	if diff := cmp.Diff(want, in.CloudPolicies()); diff != "" {
		t.Error(diff)
	}
	regional := strings.Replace(gcpMachine, "credential", "impersonate_service_account: reader@my-project.iam.gserviceaccount.com\n  credential", 1)
	in = All().ParseFile("/d/x.yaml", []byte("id: x\nkind: GCP_SECRET_MANAGER\ngcp:\n  projects: [projects/my-project/locations/eu]\n"+regional+
		"  events: {subscription: "+gcpEventsOf+", credential: {type: metadata_server}}\ngrants: [{principals: [dns:a.example.org], secrets: [db]}]\n"), sound).Integration
	got := in.CloudPolicies()[0].JSON
	for _, part := range []string{"--member=serviceAccount:<THE IDENTITY THAT RECEIVES EVENTS> ", "gcloud secrets update db --project=my-project --location=eu --add-topics="} {
		if !strings.Contains(got, part) {
			t.Errorf("the commands lack %q:\n%s", part, got)
		}
	}
}

// TestGCPGuide: the guide has the commands that the broker prints for the guide's integration.
func TestGCPGuide(t *testing.T) {
	data, err := os.ReadFile("../../../docs/integrations/gcp-secret-manager.md")
	if err != nil {
		t.Fatal(err)
	}
	_, guide, _ := strings.Cut(string(data), "## Events\n")
	block := func(language string) string {
		_, text, _ := strings.Cut(guide, "```"+language+"\n")
		text, _, _ = strings.Cut(text, "\n```")
		return text
	}
	in := All().ParseFile("/x.yaml", []byte(block("yaml")+"\n"), sound)
	if err := in.Faults.Err(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(in.Integration.CloudPolicies()[0].JSON, block("sh")); diff != "" {
		t.Error(diff)
	}
}
