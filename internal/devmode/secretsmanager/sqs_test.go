package secretsmanager_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/secretbroker/secretbroker/internal/devmode/secretsmanager"
)

const queueURL = "https://sqs.eu-west-1.amazonaws.com/123456789012/secret-events"

// receiver returns AWS's own client of SQS, with a session of the role.
func receiver(t *testing.T, s *secretsmanager.Server, now *time.Time) *sqs.Client {
	t.Helper()
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, srv.Listener.Addr().String())
	}
	transport := &http.Transport{DialContext: dial}
	t.Cleanup(transport.CloseIdleConnections)
	keys := session(t, s, *now)
	return sqs.New(sqs.Options{
		Region: "eu-west-1", BaseEndpoint: aws.String("http://sqs.eu-west-1.amazonaws.com"), HTTPClient: &http.Client{Transport: transport}, Retryer: aws.NopRetryer{},
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return keys, nil }),
	})
}

func receive(t *testing.T, c *sqs.Client, wait int32) []types.Message {
	t.Helper()
	out, err := c.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{
		QueueUrl: aws.String(queueURL), WaitTimeSeconds: wait, MaxNumberOfMessages: 10, VisibilityTimeout: 60,
		MessageSystemAttributeNames: []types.MessageSystemAttributeName{types.MessageSystemAttributeNameApproximateReceiveCount},
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.Messages
}

// A request that waits for a message gets the event of a change of the file.
func TestQueueOfFile(t *testing.T) {
	now := time.Now()
	s, path := open(t, &now, nil)
	c := receiver(t, s, &now)
	if messages := receive(t, c, 0); len(messages) != 0 {
		t.Fatalf("%d messages before a change", len(messages))
	}
	waiting := make(chan []types.Message)
	go func() { waiting <- receive(t, c, 20) }()
	write(t, path, strings.Replace(content, "VALUE", "one}, {value: two", 1))
	messages := <-waiting
	if len(messages) != 1 || messages[0].Attributes["ApproximateReceiveCount"] != "1" || len(messages[0].Attributes) != 1 {
		t.Fatalf("%+v", messages)
	}
	var event struct {
		DetailType string `json:"detail-type"`
		Source     string
		Resources  []string
		Detail     map[string]string
	}
	if err := json.Unmarshal([]byte(*messages[0].Body), &event); err != nil {
		t.Fatal(err)
	}
	if event.DetailType != "Secret Label Updated" || event.Source != "aws.secretsmanager" || len(event.Resources) != 1 || event.Resources[0] != arn+"-AbCdEf" ||
		event.Detail["name"] != "db" || event.Detail["labelUpdated"] != "AWSCURRENT" || event.Detail["versionId"] != secretsmanager.VersionID("db", 2, "two") {
		t.Errorf("%s", *messages[0].Body)
	}
	write(t, path, strings.Replace(content, "VALUE", "one}, {value: edited", 1))
	if edited := receive(t, c, 20); len(edited) != 1 || !strings.Contains(*edited[0].Body, secretsmanager.VersionID("db", 2, "edited")) {
		t.Errorf("a value that was edited in place: %d messages", len(edited))
	} else if _, err := c.DeleteMessageBatch(t.Context(), &sqs.DeleteMessageBatchInput{QueueUrl: aws.String(queueURL), Entries: []types.DeleteMessageBatchRequestEntry{{Id: aws.String("0"), ReceiptHandle: edited[0].ReceiptHandle}}}); err != nil {
		t.Error(err)
	}
	attributes := func() map[string]string {
		t.Helper()
		out, err := c.GetQueueAttributes(t.Context(), &sqs.GetQueueAttributesInput{QueueUrl: aws.String(queueURL), AttributeNames: []types.QueueAttributeName{"All"}})
		if err != nil {
			t.Fatal(err)
		}
		return out.Attributes
	}
	if a := attributes(); a["ApproximateNumberOfMessages"] != "0" || a["ApproximateNumberOfMessagesNotVisible"] != "1" {
		t.Errorf("%v", a)
	}
	out, err := c.DeleteMessageBatch(t.Context(), &sqs.DeleteMessageBatchInput{QueueUrl: aws.String(queueURL), Entries: []types.DeleteMessageBatchRequestEntry{
		{Id: aws.String("a"), ReceiptHandle: messages[0].ReceiptHandle}, {Id: aws.String("b"), ReceiptHandle: aws.String("of no message")},
	}})
	if err != nil || len(out.Successful) != 1 || *out.Successful[0].Id != "a" || len(out.Failed) != 1 || *out.Failed[0].Code != "ReceiptHandleIsInvalid" {
		t.Errorf("%+v, %v", out, err)
	}
	if a := attributes(); a["ApproximateNumberOfMessagesNotVisible"] != "0" {
		t.Errorf("%v", a)
	}
}

// Requests for another queue, or with a key that may not receive, fail with AWS's errors.
func TestQueueRefuses(t *testing.T) {
	now := time.Now()
	s, _ := open(t, &now, nil)
	c := receiver(t, s, &now)
	_, err := c.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: aws.String(strings.Replace(queueURL, "secret-", "other-", 1))})
	if !errors.As(err, new(*types.QueueDoesNotExist)) {
		t.Errorf("another queue: %v", err)
	}
	base := aws.Credentials{AccessKeyID: "AKIABASE", SecretAccessKey: "base"}
	const target, body = "AmazonSQS.ReceiveMessage", `{"QueueUrl":"` + queueURL + `"}`
	for name, tt := range map[string]struct {
		keys aws.Credentials
		code string
	}{
		"the access key": {base, "AccessDeniedException"}, "another key": {aws.Credentials{AccessKeyID: "AKIA", SecretAccessKey: "x"}, "InvalidClientTokenId"},
		"a wrong signature": {aws.Credentials{AccessKeyID: "AKIABASE", SecretAccessKey: "x"}, "SignatureDoesNotMatch"},
	} {
		if status, text := ask(s, request(tt.keys, now, "https://sqs.eu-west-1.amazonaws.com/", target, body)); status != http.StatusForbidden || !strings.Contains(text, tt.code) {
			t.Errorf("%s: HTTP %d, %s", name, status, text)
		}
	}
	if status, text := ask(s, request(session(t, s, now), now, "https://sqs.eu-west-1.amazonaws.com/", "AmazonSQS.SendMessage", body)); status != http.StatusBadRequest || !strings.Contains(text, "UnsupportedOperation") {
		t.Errorf("SendMessage: HTTP %d, %s", status, text)
	}
}

// A request that waits ends with its context, so that the server can stop.
func TestWaitingEnds(t *testing.T) {
	now := time.Now()
	s, _ := open(t, &now, nil)
	ctx, cancel := context.WithCancel(t.Context())
	r := request(session(t, s, now), now, "https://sqs.eu-west-1.amazonaws.com/", "AmazonSQS.ReceiveMessage", `{"QueueUrl":"`+queueURL+`","WaitTimeSeconds":20}`).WithContext(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		ask(s, r)
	}()
	began := time.Now()
	cancel()
	<-ended
	if d := time.Since(began); d > 15*time.Second {
		t.Errorf("waited for %v", d)
	}
}
