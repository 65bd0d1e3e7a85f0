package awssm

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const eventsHost = "events." + region + ".amazonaws.com"

// eventBridge sends an operation to EventBridge as the administrator.
func (m *moto) eventBridge(operation string, in any) {
	m.t.Helper()
	body, err := json.Marshal(in)
	providertest.Must(m.t, err)
	r, err := http.NewRequestWithContext(m.t.Context(), http.MethodPost, "https://"+eventsHost+"/", strings.NewReader(string(body)))
	providertest.Must(m.t, err)
	r.Header.Set("Content-Type", "application/x-amz-json-1.1")
	r.Header.Set("X-Amz-Target", "AWSEvents."+operation)
	m.sign(r, string(body), "events", region)
	out, err := m.do(r)
	if err != nil || strings.Contains(out, "ErrorCode") {
		m.t.Fatalf("%s: %v %s", operation, err, out)
	}
}

// policies returns the documents that the integration prints, by ID.
func policies(in *integration.Integration) map[string]string {
	all := make(map[string]string)
	for _, p := range settingsOf(in).CloudPolicies(&authz.Policy{}) {
		all[p.ID] = p.JSON
	}
	return all
}

// withQueue creates the queue and the rule, with the documents that the integration prints.
func (m *moto) withQueue(f *fake) *integration.Integration {
	m.t.Helper()
	in := m.integration(f)
	settingsOf(in).Events = f.withQueue().Settings.(*Settings).Events
	e := settingsOf(in).Events
	documents := policies(in)
	admin := sqs.New(sqs.Options{
		Region: region, BaseEndpoint: &e.Endpoint, HTTPClient: m.http,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return m.admin, nil }),
	})
	out, err := admin.CreateQueue(m.t.Context(), &sqs.CreateQueueInput{QueueName: &e.Queue, Attributes: map[string]string{"Policy": documents["AWS_EVENTS_QUEUE_POLICY"]}})
	providertest.Must(m.t, err)
	if !strings.HasSuffix(*out.QueueUrl, "/"+account+"/"+e.Queue) {
		m.t.Fatalf("the URL of the queue is %s", *out.QueueUrl)
	}
	m.eventBridge("PutRule", map[string]string{"Name": e.rule(), "EventPattern": documents["AWS_EVENTS_RULE"]})
	m.eventBridge("PutTargets", map[string]any{"Rule": e.rule(), "Targets": []any{map[string]string{"Id": "broker", "Arn": e.arn()}}})
	return in
}

// emit lets EventBridge deliver an event of Secrets Manager, which moto does not send itself.
func (m *moto) emit(kind, arn, version string) {
	m.t.Helper()
	detail, err := json.Marshal(map[string]string{"name": "prod/db", "labelUpdated": "AWSCURRENT", "versionId": version})
	providertest.Must(m.t, err)
	m.eventBridge("PutEvents", map[string]any{"Entries": []any{map[string]any{
		"Source": "aws.secretsmanager", "DetailType": kind, "Detail": string(detail), "Resources": []string{arn},
	}}})
}

// asJSON forwards a request to moto, and converts the refusals that moto writes as XML to the
// protocol of SQS.
func (m *moto) asJSON(w http.ResponseWriter, r *http.Request) {
	out := httptest.NewRecorder()
	m.forward(out, r)
	if out.Code == http.StatusForbidden && strings.Contains(out.Body.String(), "<Code>AccessDenied</Code>") {
		writeFault(w, http.StatusForbidden, "AccessDeniedException", canary)
		return
	}
	w.Header().Set("Content-Type", out.Header().Get("Content-Type"))
	w.WriteHeader(out.Code)
	_, _ = w.Write(out.Body.Bytes())
}

// TestMotoQueue: the printed policies are enough to receive an event that EventBridge
// delivers, and each permission is necessary. moto ignores the policy of the queue, knows no
// ARNs of queues in policies, and takes DeleteMessageBatch for an action of its own.
func TestMotoQueue(t *testing.T) {
	m := startMoto(t)
	f := &fake{Env: providertest.NewEnv(t)}
	f.start(http.HandlerFunc(m.asJSON))
	in := m.withQueue(f)
	document := policies(in)["AWS_EVENTS_PERMISSIONS_POLICY"]
	if !strings.Contains(document, `"`+settingsOf(in).Events.arn()+`"`) {
		t.Fatal(document)
	}
	document = strings.NewReplacer(settingsOf(in).Events.arn(), "*", "sqs:DeleteMessage", "sqs:DeleteMessageBatch").Replace(document)
	as := func(name, document string) provider.EventSource {
		t.Helper()
		keys := m.user(name, document)
		settingsOf(in).Events.Credential = &Credential{
			Type:            Static,
			AccessKeyIDFile: providertest.WriteFile(t, "id", keys.AccessKeyID), SecretAccessKeyFile: providertest.WriteFile(t, "key", keys.SecretAccessKey),
		}
		return f.openQueue(f.Config(), in)
	}
	q := as("receiver", document)
	m.emit("Secret Repainted", eventARN, versionA) // the rule's pattern does not match
	m.emit(labelUpdated, eventARN, versionA)
	messages := f.receive(q)
	if len(messages) != 1 || len(messages[0].Events) != 1 {
		t.Fatalf("%+v", messages)
	}
	want := provider.Event{Store: storeARN, Name: "prod/db", Suffix: suffix, Label: provider.AnyLabel, Version: versionA, Type: labelUpdated, At: messages[0].Events[0].At}
	if messages[0].Events[0] != want || want.At.IsZero() || messages[0].Deliveries != 1 || messages[0].SentAt.IsZero() {
		t.Errorf("%+v", messages[0])
	}
	if got, want := q.Check(t.Context()), "session ok, events of "+queueURL+" ok"; providertest.Steps(got) != want || !strings.HasPrefix(got[1].Found, "the queue exists; messages waiting: about 0; it has no dead-letter queue") {
		t.Errorf("%s: %s", providertest.Steps(got), got[1].Found)
	}
	providertest.Must(t, q.Acknowledge(t.Context(), messages))
	m.emit(labelUpdated, eventARN, versionA)
	for lacking, fails := range map[string]func(provider.EventSource) error{
		"sqs:ReceiveMessage":     func(q provider.EventSource) error { _, err := q.Receive(t.Context()); return err },
		"sqs:DeleteMessage":      func(q provider.EventSource) error { return q.Acknowledge(t.Context(), messages) },
		"sqs:GetQueueAttributes": func(q provider.EventSource) error { return q.Check(t.Context())[1].Err },
	} {
		without := as("without-"+strings.TrimPrefix(lacking, "sqs:"), strings.Replace(document, `"`+lacking, `"sqs:Purge`, 1))
		if e := f.CheckError(fails(without), secret.ReasonStoreAccessDenied); !strings.Contains(e.Message, "allow it "+lacking+" on "+queueARN) {
			t.Errorf("without %s: %v", lacking, e)
		}
	}
	settingsOf(in).Events.Queue, settingsOf(in).Events.QueueURL = "missing", strings.Replace(queueURL, "/secret-events", "/missing", 1)
	_, err := as("lost", document).Receive(t.Context())
	f.CheckError(err, secret.ReasonStoreNotFound)
}
