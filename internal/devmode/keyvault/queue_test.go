package keyvault_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azqueue/v2"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azqueue/v2/queueerror"

	"github.com/secretbroker/secretbroker/internal/devmode/keyvault"
)

const twoSecrets = "vaults: {my-vault: {secrets: {db: {value: %s}, Web: {value: same}}}}"

// queueClient returns Azure's own client of a queue, with its own authentication.
func (f *fake) queueClient(t *testing.T, name string) *azqueue.QueueClient {
	t.Helper()
	c, err := azqueue.NewQueueClient("https://"+keyvault.QueueHost+"/"+name, f.credential(t, tenantID, clientID, clientSecret), &azqueue.ClientOptions{ClientOptions: f.clientOptions()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func receive(t *testing.T, c *azqueue.QueueClient) []*azqueue.DequeuedMessage {
	t.Helper()
	resp, err := c.DequeueMessages(t.Context(), &azqueue.DequeueMessagesOptions{NumberOfMessages: new(int32(10)), VisibilityTimeout: new(int32(60))})
	if err != nil {
		t.Fatal(err)
	}
	return resp.Messages
}

// TestQueue: Azure's own client receives an event for each secret that got another current
// version, hidden from the second receiver until its time is over, and deletes it.
func TestQueue(t *testing.T) {
	f := start(t, fmt.Sprintf(twoSecrets, "one"))
	c := f.queueClient(t, keyvault.QueueName)
	if got := receive(t, c); len(got) != 0 {
		t.Fatalf("%d messages before a change", len(got))
	}
	f.edit(t, fmt.Sprintf(twoSecrets, "two"))
	peeked, err := c.PeekMessage(t.Context(), nil)
	if err != nil || len(peeked.Messages) != 1 || *peeked.Messages[0].DequeueCount != 0 {
		t.Fatalf("peek: %+v, %v", peeked, err)
	}
	got := receive(t, c)
	if len(got) != 1 {
		t.Fatalf("%d messages", len(got))
	}
	text, err := base64.StdEncoding.DecodeString(*got[0].MessageText)
	if err != nil {
		t.Fatal(err)
	}
	var event struct {
		EventType string
		EventTime time.Time
		Data      map[string]any
	}
	if err := json.Unmarshal(text, &event); err != nil {
		t.Fatal(err)
	}
	version := keyvault.VersionID("my-vault", "db", "two")
	if event.EventType != "Microsoft.KeyVault.SecretNewVersionCreated" || event.Data["Version"] != version ||
		event.Data["Id"] != "https://my-vault.vault.azure.net/secrets/db/"+version || event.EventTime.Unix() != f.clock.Load() {
		t.Errorf("the event is %s", text)
	}
	if *got[0].DequeueCount != 1 || got[0].InsertionTime.Unix() != f.clock.Load() || got[0].TimeNextVisible.Unix() != f.clock.Load()+60 {
		t.Errorf("the message is %+v", got[0])
	}
	if hidden := receive(t, c); len(hidden) != 0 {
		t.Error("another receiver has the message as well")
	}
	f.clock.Add(61)
	again := receive(t, c)
	if len(again) != 1 || *again[0].DequeueCount != 2 {
		t.Fatalf("after the time: %+v", again)
	}
	if _, err := c.DeleteMessage(t.Context(), *got[0].MessageID, *got[0].PopReceipt, nil); !queueerror.HasCode(err, queueerror.PopReceiptMismatch) {
		t.Errorf("with the receipt of the first delivery: %v", err)
	}
	for _, want := range []queueerror.Code{"", queueerror.MessageNotFound} {
		_, err := c.DeleteMessage(t.Context(), *again[0].MessageID, *again[0].PopReceipt, nil)
		if want == "" && err != nil || want != "" && !queueerror.HasCode(err, want) {
			t.Errorf("delete: %v, want %s", err, want)
		}
	}
	f.Send([]byte(strings.Repeat("x", 10)))
	f.clock.Add(8 * 24 * 60 * 60)
	if got := receive(t, f.queueClient(t, keyvault.QueueName)); len(got) != 0 {
		t.Error("a message outlived its time")
	}
}

// TestQueueHasRoom: the oldest message makes room.
func TestQueueHasRoom(t *testing.T) {
	f := start(t, fmt.Sprintf(twoSecrets, "one"))
	for i := range 1001 {
		f.Send(fmt.Append(nil, i))
	}
	got := receive(t, f.queueClient(t, keyvault.QueueName))
	if text, _ := base64.StdEncoding.DecodeString(*got[0].MessageText); string(text) != "1" {
		t.Errorf("the first message is %s", text)
	}
}

// TestQueueRefusals: the token of a vault does not open the queue, and the other way round.
func TestQueueRefusals(t *testing.T) {
	f := start(t, fmt.Sprintf(twoSecrets, "one"))
	_, err := f.queueClient(t, "other").PeekMessage(t.Context(), nil)
	if !queueerror.HasCode(err, queueerror.QueueNotFound) {
		t.Errorf("another queue: %v", err)
	}
	c := f.queueClient(t, keyvault.QueueName)
	if _, err := c.EnqueueMessage(t.Context(), "x", nil); err == nil {
		t.Error("a message was sent")
	}
	if _, err := c.DequeueMessages(t.Context(), &azqueue.DequeueMessagesOptions{NumberOfMessages: new(int32(33))}); !queueerror.HasCode(err, queueerror.OutOfRangeQueryParameterValue) {
		t.Errorf("33 messages: %v", err)
	}
	messages := "https://" + keyvault.QueueHost + "/" + keyvault.QueueName + "/messages"
	for name, authorization := range map[string]string{"none": "", "of the vault": "Bearer " + f.token(t), "garbled": "Bearer x"} {
		resp, body := f.request(t, http.MethodGet, messages, authorization)
		if resp.StatusCode != http.StatusUnauthorized || !strings.Contains(body, "<Code>InvalidAuthenticationInfo</Code>") {
			t.Errorf("the token is %s: %s %s", name, resp.Status, body)
		}
	}
	cred := f.credential(t, tenantID, clientID, clientSecret)
	token, err := cred.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{"https://storage.azure.com/.default"}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.vaultAs(t, "my-vault", fixedToken(token.Token)).GetSecret(t.Context(), "db", "", nil)
	if re, ok := errors.AsType[*azcore.ResponseError](err); !ok || re.StatusCode != http.StatusUnauthorized {
		t.Errorf("a token for queues opens a vault: %v", err)
	}
}

// fixedToken is a credential with one token.
type fixedToken string

func (f fixedToken) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{Token: string(f), ExpiresOn: time.Now().Add(time.Hour)}, nil
}
