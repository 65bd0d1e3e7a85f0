package awssm

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/devmode/secretsmanager"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// The queue's identity is the integration's, or one of its own. Errors name its settings.
func TestQueueIdentity(t *testing.T) {
	const eventRole = "arn:aws:iam::" + account + ":role/events"
	for _, tt := range []struct {
		name   string
		change func(f *fake, a *Settings)
		role   string // the one that is assumed
		reads  bool   // the access key may use the queue
		says   string // after the credential is refused
	}{
		{"the integration's", func(*fake, *Settings) {}, roleARN, false, "renew aws.credential"},
		{"a role", func(_ *fake, a *Settings) {
			a.Events.Role = &Role{ARN: eventRole, ExternalID: externalID, Duration: time.Hour}
		}, eventRole, false, "renew aws.credential"},
		{"a credential", func(f *fake, a *Settings) {
			own := a.Credential
			a.Events.Credential = &own
			a.Credential = Credential{Type: Static, AccessKeyIDFile: providertest.WriteFile(f, "id", "other"), SecretAccessKeyFile: providertest.WriteFile(f, "key", "other")}
		}, "", true, "renew the credential"},
		{"a credential and a role", func(f *fake, a *Settings) {
			own := a.Credential
			a.Events.Credential = &own
			a.Events.Role = &Role{ARN: eventRole, ExternalID: externalID, Duration: time.Hour}
			a.Credential = Credential{Type: DefaultCredential}
		}, eventRole, false, "renew aws.events.credential"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			f.change(func(s *secretsmanager.State) {
				s.Identity.Reads = tt.reads
				if tt.role != "" {
					s.Identity.RoleARN = tt.role
				}
			})
			in := f.withQueue()
			tt.change(f, settingsOf(in))
			q := f.openQueue(f.Config(), in)
			f.server.Send(region, "1")
			f.receive(q)
			if asked := f.asked("AssumeRole"); tt.role == "" && len(asked) != 0 || tt.role != "" && (len(asked) != 1 || asked[0].form.Get("RoleArn") != tt.role) {
				t.Errorf("sessions: %v", asked)
			}
			own := "session ok, "
			if settingsOf(in).Events.Credential == nil && settingsOf(in).Events.Role == nil {
				own = ""
			}
			if got, want := providertest.Steps(q.Check(t.Context())), own+"events of "+queueURL+" ok"; got != want {
				t.Errorf("%s, want %s", got, want)
			}
			f.change(func(s *secretsmanager.State) { s.Identity.AccessKeyID = "AKIAOTHER" })
			q = f.openQueue(f.Config(), in)
			_, err := q.Receive(t.Context())
			if e := f.CheckError(err, secret.ReasonStoreAuthenticationFailed); !strings.Contains(e.Message, tt.says) {
				t.Errorf("%q does not say %q", e.Message, tt.says)
			}
		})
	}
}

// Check looks at the queue's attributes and takes no message.
func TestQueueCheck(t *testing.T) {
	f := newFake(t)
	q := f.openQueue(f.Config(), f.withQueue())
	f.server.Send(region, "1")
	found := func() string {
		t.Helper()
		steps := q.Check(t.Context())
		if len(steps) != 1 || steps[0].Err != nil {
			t.Fatalf("%+v", steps)
		}
		return steps[0].Found
	}
	const skipped = ". Receiving and deleting were skipped, because that would take messages away: sqs:ReceiveMessage and sqs:DeleteMessage are not tested"
	if got, want := found(), "the queue exists; messages waiting: about 1; it has no dead-letter queue, which the broker does not need"+skipped; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if f.count("ReceiveMessage") != 0 {
		t.Error("a message was received")
	}
	f.answering("GetQueueAttributes", func(w http.ResponseWriter, _ []byte) {
		writeJSON(w, map[string]any{"Attributes": map[string]string{
			"ApproximateNumberOfMessages": canary, "KmsMasterKeyId": "arn:aws:kms:eu-west-1:123456789012:alias/aws/sqs", "RedrivePolicy": canary,
		}})
	})
	got := found()
	if want := "the queue exists; it has no policy, so an EventBridge rule can send to it only with a role; it is encrypted with the KMS key alias/aws/sqs, which EventBridge cannot use; use SSE-SQS or a customer-managed key" + skipped; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	f.change(func(s *secretsmanager.State) { s.Identity.AccessKeyID = "AKIAOTHER" })
	in := f.withQueue()
	settingsOf(in).Events.Role = settingsOf(in).Role
	if got := providertest.Steps(f.openQueue(f.Config(), in).Check(t.Context())); got != "session STORE_AUTHENTICATION_FAILED, events of "+queueURL+" skipped" {
		t.Error(got)
	}
}

func TestOpenQueueFails(t *testing.T) {
	f := newFake(t)
	_, err := EventOpener(f.Config())(t.Context(), f.integration())
	f.CheckError(err, secret.ReasonStoreAuthenticationFailed)
	in := f.withQueue()
	settingsOf(in).Events.Credential = &Credential{Type: Static, AccessKeyIDFile: "/missing", SecretAccessKeyFile: "/missing"}
	_, err = EventOpener(f.Config())(t.Context(), in)
	if e := f.CheckError(err, secret.ReasonStoreAuthenticationFailed); !strings.Contains(e.Message, "aws.events.credential.access_key_id_file") {
		t.Error(e)
	}
}
