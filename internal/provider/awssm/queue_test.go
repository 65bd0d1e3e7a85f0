package awssm

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/devmode/secretsmanager"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/egress"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// withQueue returns an integration that receives events from the fake's queue.
func (f *fake) withQueue() *integration.Integration {
	in := f.integration()
	settingsOf(in).Events = &Events{QueueURL: queueURL, Region: region, Account: account, Queue: secretsmanager.QueueName, Endpoint: "https://" + sqsHost}
	return in
}

func (f *fake) openQueue(cfg provider.Config, in *integration.Integration) provider.EventSource {
	f.Helper()
	q, err := EventOpener(cfg)(f.Context(), in)
	providertest.Must(f, err)
	f.Cleanup(func() { providertest.Must(f, q.Close()) })
	return q
}

func (f *fake) receive(q provider.EventSource) []provider.EventMessage {
	f.Helper()
	messages, err := q.Receive(f.Context())
	providertest.Must(f, err)
	return messages
}

// answering lets the fake answer an operation of SQS.
func (f *fake) answering(operation string, answer func(w http.ResponseWriter, body []byte)) {
	f.answer = func(w http.ResponseWriter, _ *http.Request, asked string, body []byte) bool {
		if asked == operation {
			answer(w, body)
		}
		return asked == operation
	}
}

func TestQueue(t *testing.T) {
	f := newFake(t)
	q := f.openQueue(f.Config(), f.withQueue())
	f.put(region, "prod/db", "1")
	f.put(region, "prod/db", canary)
	f.server.Send(region, `{"text":"`+canary+`"}`)
	f.server.Send("us-east-1", "in another region")
	messages := f.receive(q)
	if len(messages) != 3 {
		t.Fatalf("%d messages", len(messages))
	}
	for i, m := range messages[:2] {
		want := provider.Event{
			Store: storeARN, Name: "prod/db", Suffix: suffix, Label: provider.AnyLabel,
			Version: secretsmanager.VersionID("prod/db", i, [2]string{"1", canary}[i]), Type: "Secret Label Updated", At: m.Events[0].At,
		}
		if len(m.Events) != 1 || m.Events[0] != want || time.Since(want.At).Abs() > time.Minute || m.Problem != "" {
			t.Errorf("message %d: %+v", i, m)
		}
		if m.ID == "" || m.Deliveries != 1 || time.Since(m.SentAt).Abs() > time.Minute {
			t.Errorf("message %d: id %q, deliveries %d, sent at %v", i, m.ID, m.Deliveries, m.SentAt)
		}
	}
	if messages[2].Problem != noSecret || len(messages[2].Events) != 0 {
		t.Errorf("%+v", messages[2])
	}
	for _, c := range f.asked("ReceiveMessage") {
		if c.MaxNumberOfMessages != 10 {
			t.Errorf("asked for %d messages", c.MaxNumberOfMessages)
		}
	}
	providertest.Must(t, q.Acknowledge(t.Context(), messages[:2]))
	if err := q.Acknowledge(t.Context(), messages[:2]); err == nil {
		t.Error("messages were deleted twice")
	} else if e := f.CheckError(err, secret.ReasonStoreUnavailable); !strings.Contains(e.Message, "did not delete 2 of 2 messages") {
		t.Error(e)
	}
	providertest.Must(t, q.Acknowledge(t.Context(), messages[2:]))
	f.CheckClean("the log", f.Logs.String())
}

// The queue delivers a message again if it is not acknowledged, and says so.
func TestRedelivery(t *testing.T) {
	f := newFake(t)
	now := time.Now()
	var err error
	f.server, err = secretsmanager.New(f.state, func() time.Time { return now })
	providertest.Must(t, err)
	f.next = f.server
	q := f.openQueue(f.Config(), f.withQueue())
	f.put(region, "prod/db", "1")
	first := f.receive(q)
	for _, waiting := range []string{"about 0", "about 1"} {
		now = now.Add(30 * time.Second)
		if found := q.Check(t.Context())[0].Found; !strings.Contains(found, "messages waiting: "+waiting) {
			t.Errorf("%s, want %s", found, waiting)
		}
	}
	second := f.receive(q)
	if len(first) != 1 || len(second) != 1 || second[0].ID != first[0].ID || second[0].Deliveries != 2 || second[0].Handle == first[0].Handle {
		t.Errorf("%+v, then %+v", first, second)
	}
}

// Acknowledge deletes any number of messages, ten with each request.
func TestAcknowledgeMany(t *testing.T) {
	f := newFake(t)
	q := f.openQueue(f.Config(), f.withQueue())
	var all []provider.EventMessage
	for i := range 23 {
		f.server.Send(region, fmt.Sprint(i))
	}
	for len(all) < 23 {
		all = append(all, f.receive(q)...)
	}
	providertest.Must(t, q.Acknowledge(t.Context(), all))
	if n := f.count("DeleteMessageBatch"); n != 3 {
		t.Errorf("%d requests", n)
	}
	providertest.Must(t, q.Acknowledge(t.Context(), nil))
	if n := f.count("DeleteMessageBatch"); n != 3 {
		t.Error("a request without a message")
	}
}

func TestQueueErrors(t *testing.T) {
	fault := func(status int, code string) func(http.ResponseWriter, []byte) {
		return func(w http.ResponseWriter, _ []byte) { writeFault(w, status, code, canary) }
	}
	for _, tt := range []struct {
		name   string
		answer func(w http.ResponseWriter, body []byte)
		want   secret.Reason
		says   string
	}{
		{"denied", fault(403, "com.amazon.coral.service#AccessDeniedException"), secret.ReasonStoreAccessDenied, "PERMISSION on " + queueARN},
		{"no queue", fault(400, "com.amazonaws.sqs#QueueDoesNotExist"), secret.ReasonStoreNotFound, "aws.events.queue_url"},
		{"no queue, as the query protocol says it", func(w http.ResponseWriter, _ []byte) {
			w.Header().Set("X-Amzn-Query-Error", "AWS.SimpleQueueService.NonExistentQueue;Sender")
			writeFault(w, 400, "com.amazonaws.sqs#QueueDoesNotExist", canary)
		}, secret.ReasonStoreNotFound, "aws.events.queue_url"},
		{"address", fault(400, "com.amazonaws.sqs#InvalidAddress"), secret.ReasonStoreNotFound, "aws.events.queue_url"},
		{"key denied", fault(400, "com.amazonaws.sqs#KmsAccessDenied"), secret.ReasonStoreAccessDenied, "kms:Decrypt"},
		{"key disabled", func(w http.ResponseWriter, _ []byte) {
			w.Header().Set("X-Amzn-Query-Error", "KMS.DisabledException;Sender")
			writeFault(w, 400, "com.amazonaws.sqs#KmsDisabled", canary)
		}, secret.ReasonStoreAccessDenied, "fix the key"},
		{"throttled", fault(403, "com.amazonaws.sqs#RequestThrottled"), secret.ReasonStoreThrottled, "throttles"},
		{"too many messages under way", fault(403, "com.amazonaws.sqs#OverLimit"), secret.ReasonStoreThrottled, "throttles"},
		{"keys", fault(403, "InvalidClientTokenId"), secret.ReasonStoreAuthenticationFailed, "renew the credential"},
		{"signature", fault(403, "SignatureDoesNotMatch"), secret.ReasonStoreAuthenticationFailed, "clock"},
		{"failing", fault(503, "ServiceUnavailable"), secret.ReasonStoreUnavailable, "HTTP 503"},
		{"redirect", func(w http.ResponseWriter, _ []byte) { w.WriteHeader(http.StatusFound) }, secret.ReasonStoreUnavailable, "redirect"},
		{"a page", func(w http.ResponseWriter, _ []byte) { _, _ = w.Write([]byte("<html>" + canary)) }, secret.ReasonStoreUnavailable, "other than an answer of SQS"},
		{"not UTF-8", func(w http.ResponseWriter, _ []byte) { _, _ = w.Write([]byte("{\xff" + canary)) }, secret.ReasonStoreUnavailable, "other than an answer of SQS"},
		{"broken off", func(http.ResponseWriter, []byte) { panic(http.ErrAbortHandler) }, secret.ReasonStoreUnavailable, "closed the connection"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			q := f.openQueue(f.Config(), f.withQueue())
			for operation, permission := range map[string]string{
				"ReceiveMessage": "sqs:ReceiveMessage", "DeleteMessageBatch": "sqs:DeleteMessage", "GetQueueAttributes": "sqs:GetQueueAttributes",
			} {
				f.answering(operation, tt.answer)
				var err error
				switch operation {
				case "ReceiveMessage":
					_, err = q.Receive(t.Context())
				case "DeleteMessageBatch":
					err = q.Acknowledge(t.Context(), make([]provider.EventMessage, 1))
				default:
					steps := q.Check(t.Context())
					err = steps[len(steps)-1].Err
				}
				e := f.CheckError(err, tt.want)
				if says := strings.Replace(tt.says, "PERMISSION", permission, 1); !strings.Contains(e.Message, says) {
					t.Errorf("%s: %q does not say %q", operation, e.Message, says)
				}
			}
		})
	}
}

// A message that SQS refuses to delete is not taken for one that it has deleted.
func TestNotDeleted(t *testing.T) {
	f := newFake(t)
	q := f.openQueue(f.Config(), f.withQueue())
	for code, want := range map[string]secret.Reason{
		"InternalError": secret.ReasonStoreUnavailable, "AccessDenied": secret.ReasonStoreAccessDenied, "ReceiptHandleIsInvalid": secret.ReasonStoreUnavailable,
		canary: secret.ReasonStoreUnavailable,
	} {
		f.answering("DeleteMessageBatch", func(w http.ResponseWriter, _ []byte) {
			writeJSON(w, map[string]any{"Successful": []any{}, "Failed": []any{map[string]any{"Id": "0", "Code": code + " " + canary, "SenderFault": true}}})
		})
		if code != canary {
			f.answering("DeleteMessageBatch", func(w http.ResponseWriter, _ []byte) {
				writeJSON(w, map[string]any{"Failed": []any{map[string]any{"Id": "0", "Code": code, "Message": canary, "SenderFault": true}}})
			})
		}
		f.CheckError(q.Acknowledge(t.Context(), make([]provider.EventMessage, 1)), want)
	}
}

// Keys that SQS refuses are replaced once.
func TestQueueReplacesKeys(t *testing.T) {
	f := newFake(t)
	q := f.openQueue(f.Config(), f.withQueue())
	f.server.Send(region, "1")
	f.receive(q)
	f.server.Revoke()
	f.server.Send(region, "2")
	f.receive(q)
	if n := f.count("AssumeRole"); n != 2 {
		t.Errorf("%d sessions", n)
	}
}

// A wait for a message may last longer than other exchanges, and ends with its context.
func TestLongPoll(t *testing.T) {
	f := newFake(t)
	cfg := f.Config()
	cfg.TryTimeout = 300 * time.Millisecond
	q := f.openQueue(cfg, f.withQueue())
	every := time.NewTicker(10 * time.Millisecond)
	defer every.Stop()
	for deadline := time.Now().Add(30 * time.Second); providertest.Steps(q.Check(t.Context())) != "events of "+queueURL+" ok"; <-every.C { // on a slow machine, the session takes several attempts
		if time.Now().After(deadline) {
			t.Fatal("no session")
		}
	}
	arrived := make(chan struct{}, 1)
	f.answer = func(_ http.ResponseWriter, _ *http.Request, operation string, _ []byte) bool {
		if operation == "ReceiveMessage" {
			select {
			case arrived <- struct{}{}:
			default:
			}
		}
		return false
	}
	go func() {
		<-arrived
		timer := time.NewTimer(2 * cfg.TryTimeout)
		defer timer.Stop()
		<-timer.C
		f.server.Send(region, "late")
	}()
	if messages := f.receive(q); len(messages) != 1 {
		t.Errorf("%d messages", len(messages))
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	_, err := q.Receive(ctx)
	f.CheckError(err, secret.ReasonStoreUnavailable)
	f.answer = func(_ http.ResponseWriter, r *http.Request, operation string, _ []byte) bool {
		if operation == "DeleteMessageBatch" {
			<-r.Context().Done()
		}
		return operation == "DeleteMessageBatch"
	}
	if e := f.CheckError(q.Acknowledge(t.Context(), make([]provider.EventMessage, 1)), secret.ReasonStoreUnavailable); !strings.Contains(e.Message, "did not answer in time") {
		t.Error(e)
	}
}

// A server that sends more messages than it was asked for fills no memory with events.
func TestTooManyMessages(t *testing.T) {
	f := newFake(t)
	q := f.openQueue(f.Config(), f.withQueue())
	f.answering("ReceiveMessage", func(w http.ResponseWriter, _ []byte) {
		writeJSON(w, map[string]any{"Messages": make([]struct{}, 1000)})
	})
	if messages := f.receive(q); len(messages) != maxMessages || messages[0].Problem != notJSON {
		t.Errorf("%d messages", len(messages))
	}
}

// Ten messages that are too large together are received one by one.
func TestLargeMessages(t *testing.T) {
	f := newFake(t)
	now := time.Now()
	cfg := f.Config()
	cfg.Now = func() time.Time { return now }
	q := f.openQueue(cfg, f.withQueue())
	f.answering("ReceiveMessage", func(w http.ResponseWriter, body []byte) {
		var in call
		providertest.Must(t, json.Unmarshal(body, &in))
		messages := make([]map[string]string, in.MaxNumberOfMessages)
		for i := range messages {
			messages[i] = map[string]string{"Body": strings.Repeat(`"`, 1<<20)}
		}
		writeJSON(w, map[string]any{"Messages": messages})
	})
	for range 2 {
		if messages := f.receive(q); len(messages) != 1 || messages[0].Problem != tooLarge {
			t.Fatalf("%d messages", len(messages))
		}
	}
	now = now.Add(cautionTime)
	f.receive(q)
	var asked []int
	for _, c := range f.asked("ReceiveMessage") {
		asked = append(asked, c.MaxNumberOfMessages)
	}
	if got := fmt.Sprint(asked); got != "[10 1 1 10 1]" {
		t.Errorf("asked for %s messages", got)
	}
}

// Requests are sent to the queue's endpoint and to STS only.
func TestQueueOrigins(t *testing.T) {
	f := newFake(t)
	q := f.openQueue(f.Config(), f.withQueue()).(*queue)
	for _, c := range q.clients {
		for _, origin := range c.Transport.(*egress.Transport).Origins() {
			if origin != "https://"+sqsHost && origin != "https://"+stsHost {
				t.Errorf("requests may be sent to %s", origin)
			}
		}
	}
}
