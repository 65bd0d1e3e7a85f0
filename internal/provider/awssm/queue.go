package awssm

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/smithy-go/logging"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/egress"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/provider/task"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const (
	// pollTime is how long SQS waits for a message.
	pollTime = 20 * time.Second
	// visibilityTime is how long SQS delivers a message to no other receiver.
	visibilityTime = time.Minute
	// maxMessages is the maximum number of messages in one request.
	maxMessages = 10
	// maxPollBody limits a response with messages, in bytes. A message has at most 1 MiB,
	// which JSON encoding multiplies by three at worst. Ten events have some 10 KiB.
	maxPollBody = 4 << 20
	// cautionTime is how long messages are requested one by one after a response with more
	// than maxPollBody: until SQS has delivered its messages again.
	cautionTime = 2 * visibilityTime
)

// EventOpener returns the provider.EventOpener of Amazon SQS. Its errors are as those of
// Opener.
func EventOpener(cfg provider.Config) provider.EventOpener {
	return func(ctx context.Context, in *integration.Integration) (provider.EventSource, error) {
		return openQueue(ctx, cfg, in)
	}
}

// queue receives events from a queue of SQS.
type queue struct {
	*connection
	to     *Events
	at     service
	parser messageParser
	client *sqs.Client
	// poll waits for messages; the client's own HTTP client is for all other requests.
	poll *http.Client
	// cautious is until when messages are requested one by one.
	cautious time.Time
}

func openQueue(ctx context.Context, cfg provider.Config, in *integration.Integration) (*queue, error) {
	if in.Kind != secret.KindAWSSecretsManager || settingsOf(in) == nil || settingsOf(in).Events == nil {
		return nil, storeerror.Setup("the integration has no aws.events")
	}
	e := settingsOf(in).Events
	c, err := newConnection(cfg, in, settingsOf(in).eventsIdentity())
	if err != nil {
		return nil, err
	}
	host := strings.TrimPrefix(e.Endpoint, "https://")
	q := &queue{
		connection: c, to: e, parser: messageParser{region: e.Region, account: e.Account},
		at: service{name: "SQS in " + e.Region + " (" + host + ")", host: host, expected: "an answer of SQS", doing: "a request to", settings: "aws.fips"},
	}
	origins := []string{e.Endpoint}
	q.poll = c.newClientWith(origins, nil, func(out *egress.Config) {
		out.Timeout += pollTime
		out.MaxBody = maxPollBody
	})
	q.client = sqs.New(sqs.Options{
		Region:                     e.Region,
		BaseEndpoint:               &e.Endpoint,
		HTTPClient:                 c.newClient(origins, nil),
		Retryer:                    aws.NopRetryer{},
		Logger:                     logging.Nop{},
		AppID:                      userAgent,
		DisableClockSkewCorrection: true,
		// One message whose checksum differs would make the others unreadable, and Go has
		// no MD5 in FIPS 140 mode. TLS protects the response.
		DisableMessageChecksumValidation: true,
	})
	if err := c.start(ctx); err != nil {
		return nil, err
	}
	return q, nil
}

// Receive implements provider.EventSource.
func (q *queue) Receive(ctx context.Context) ([]provider.EventMessage, error) {
	n := int32(maxMessages)
	if q.cfg.Now().Before(q.cautious) {
		n = 1
	}
	out, err := q.receive(ctx, n)
	if errors.As(err, new(*egress.SizeError)) && n > 1 {
		q.log.Warn("the messages in the queue are too large to receive ten at once; receiving them one by one", "queue", q.to.QueueURL)
		q.cautious = q.cfg.Now().Add(cautionTime)
		out, err = q.receive(ctx, 1)
	}
	if err != nil {
		return nil, q.explain(ctx, "sqs:ReceiveMessage", err)
	}
	messages := make([]provider.EventMessage, min(len(out.Messages), maxMessages)) // a server that is not SQS could send more
	for i := range messages {
		messages[i] = q.message(&out.Messages[i])
	}
	return messages, nil
}

func (q *queue) receive(ctx context.Context, n int32) (out *sqs.ReceiveMessageOutput, err error) {
	err = q.request(ctx, func(sign func(*sqs.Options)) (err error) {
		out, err = q.client.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{
			QueueUrl:            &q.to.QueueURL,
			MaxNumberOfMessages: n,
			WaitTimeSeconds:     int32(pollTime / time.Second),
			VisibilityTimeout:   int32(visibilityTime / time.Second),
			MessageSystemAttributeNames: []types.MessageSystemAttributeName{
				types.MessageSystemAttributeNameApproximateReceiveCount, types.MessageSystemAttributeNameSentTimestamp,
			},
		}, sign, func(o *sqs.Options) { o.HTTPClient = q.poll })
		return err
	})
	return out, err
}

// request calls try, whose requests sign signs. Its errors are the SDK's, or *secret.Error.
func (q *queue) request(ctx context.Context, try func(sign func(*sqs.Options)) error) error {
	return q.signed(ctx, q.to.Region, func(k *keys) error {
		return task.Contain(func() error {
			return try(func(o *sqs.Options) {
				o.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return k.Value, nil })
			})
		})
	})
}

// message converts a message.
func (q *queue) message(m *types.Message) provider.EventMessage {
	out := provider.EventMessage{ID: aws.ToString(m.MessageId), Handle: aws.ToString(m.ReceiptHandle)}
	if n, err := strconv.Atoi(m.Attributes[string(types.MessageSystemAttributeNameApproximateReceiveCount)]); err == nil {
		out.Deliveries = max(0, n)
	}
	if ms, err := strconv.ParseInt(m.Attributes[string(types.MessageSystemAttributeNameSentTimestamp)], 10, 64); err == nil && ms > 0 {
		out.SentAt = time.UnixMilli(ms)
	}
	if err := task.Contain(func() error {
		out.Events, out.Problem = q.parser.parse(aws.ToString(m.Body))
		return nil
	}); err != nil {
		out.Events, out.Problem = nil, "the broker cannot handle the message"
	}
	return out
}

// Acknowledge implements provider.EventSource.
func (q *queue) Acknowledge(ctx context.Context, messages []provider.EventMessage) error {
	for batch := range slices.Chunk(messages, maxMessages) {
		entries := make([]types.DeleteMessageBatchRequestEntry, len(batch))
		for i := range batch {
			handle, _ := batch[i].Handle.(string)
			entries[i] = types.DeleteMessageBatchRequestEntry{Id: aws.String(strconv.Itoa(i)), ReceiptHandle: &handle}
		}
		var out *sqs.DeleteMessageBatchOutput
		err := q.request(ctx, func(sign func(*sqs.Options)) (err error) {
			out, err = q.client.DeleteMessageBatch(ctx, &sqs.DeleteMessageBatchInput{QueueUrl: &q.to.QueueURL, Entries: entries}, sign)
			return err
		})
		if err != nil {
			return q.explain(ctx, "sqs:DeleteMessage", err)
		}
		if len(out.Failed) > 0 {
			return q.notDeleted(len(batch), out.Failed)
		}
	}
	return nil
}

// notDeleted returns the error for a request of which SQS has executed only a part.
func (q *queue) notDeleted(of int, failed []types.BatchResultErrorEntry) *secret.Error {
	f := &failure{status: http.StatusOK, code: plainCode(aws.ToString(failed[0].Code))}
	if c := f.class(); c == classDenied || c == classThrottled || c == classFailing {
		return q.explainAnswer("sqs:DeleteMessage", f)
	}
	return secret.Errorf(secret.ReasonStoreUnavailable, "%s did not delete %d of %d messages; it will deliver them again", q.at.name, len(failed), of).WithCause(storeerror.Answered(f))
}

// explain returns the error for a request that the permission allows.
func (q *queue) explain(ctx context.Context, permission string, err error) *secret.Error {
	var known *secret.Error
	if errors.As(err, &known) {
		return known
	}
	if f := failureOf(err); f != nil {
		return q.explainAnswer(permission, f)
	}
	return explainOutage(ctx, q.at, err)
}

func (q *queue) explainAnswer(permission string, f *failure) *secret.Error {
	name := fmt.Sprintf("the queue %s in the account %s", q.to.Queue, q.to.Account)
	errorf := func(r secret.Reason, format string, args ...any) *secret.Error {
		return secret.Errorf(r, format, args...).WithCause(f)
	}
	switch c := f.class(); {
	case c == classDenied && f.aboutKMS:
		return errorf(secret.ReasonStoreAccessDenied, "the identity for events may not use the KMS key of %s; allow it kms:Decrypt on the key", name)
	case c == classDenied:
		return errorf(secret.ReasonStoreAccessDenied, "the identity for events may not use %s; allow it %s on %s, and check the policies of the queue, of the VPC endpoint and of the organization", name, permission, q.to.arn())
	case c == classKey:
		return errorf(secret.ReasonStoreAccessDenied, "%s cannot be decrypted: its KMS key is disabled, scheduled for deletion or inaccessible; fix the key", name)
	case c == classNotFound, c == classInvalid:
		return errorf(secret.ReasonStoreNotFound, "%s has no queue of the URL in aws.events.queue_url, or hides it from the identity for events; fix the URL, or allow the identity %s on %s", q.at.name, permission, q.to.arn())
	default:
		return q.at.explain(f)
	}
}

// Close implements provider.EventSource.
func (q *queue) Close() error { return q.close() }
