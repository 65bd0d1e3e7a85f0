package azurekv

import (
	"context"
	"crypto/x509"
	"errors"
	"net/http"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azqueue/v2"
	"golang.org/x/sync/errgroup"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/provider/task"
)

const (
	// storageScope is the scope of tokens for the queues of every cloud.
	storageScope = "https://storage.azure.com/.default"
	// receiveMax is how many messages Receive asks for.
	receiveMax = 10
	// receiveTime is how long Receive waits for a message.
	receiveTime = 20 * time.Second
	// visibility is how long the queue hides a message that was received, in seconds.
	visibility = 60
	// quickPoll is the interval of requests for messages while changes are likely: for the
	// next quickPolls requests after a message. A queue of Azure Storage has no long poll,
	// and every request costs. idlePoll is the interval otherwise: a message waits 1 s on
	// average and 2 s at most.
	quickPoll  = time.Second
	idlePoll   = 2 * time.Second
	quickPolls = 30
	// maxMessages limits the size of a response, in bytes: 10 messages of 64 KiB, each of
	// whose bytes can take 6 in XML.
	maxMessages = 5 << 20
)

// EventOpener returns the provider.EventOpener of Azure Key Vault: it receives the events of
// the vaults that Event Grid delivers to a queue of Azure Storage.
func EventOpener(cfg provider.Config) provider.EventOpener {
	return func(ctx context.Context, in *integration.Integration) (provider.EventSource, error) {
		q, err := openQueue(ctx, cfg, in)
		if err != nil {
			return nil, err
		}
		return q, nil
	}
}

// queue is a queue of Azure Storage. It sends requests to the queue's host, and by another
// client to the login authority.
type queue struct {
	*login[*azqueue.QueueClient]
	// who is the identity in texts for people, and own whether it is the queue's own.
	who       string
	own       bool
	url, host string
	queueHTTP *http.Client
	// wait waits, and returns false if ctx ended before. It is replaced in tests.
	wait func(ctx context.Context, d time.Duration) bool
	// quick is how many more requests for messages follow in the interval quickPoll. Only
	// Receive uses it.
	quick int
}

var _ provider.EventSource = (*queue)(nil)

// delivery identifies one delivery of a message.
type delivery struct{ id, receipt string }

func openQueue(ctx context.Context, cfg provider.Config, in *integration.Integration) (*queue, error) {
	a := settingsOf(in)
	if a == nil || a.Events.host() == "" {
		return nil, storeerror.Setup("azure.events.queue_url is not set")
	}
	id := a.eventIdentity()
	if err := checkSettings(in, id); err != nil {
		return nil, err
	}
	roots, err := loadRoots(a.CAFile)
	if err != nil {
		return nil, err
	}
	cfg = cfg.For(in)
	q := &queue{
		who: "the integration's identity", own: a.Events.Credential.Type != "",
		url: a.Events.QueueURL, host: a.Events.host(), wait: pause,
	}
	if q.own {
		q.who = "the identity of azure.events.credential"
	}
	q.queueHTTP = newQueueClient(cfg, in, roots, q.host)
	q.login, err = newLogin(ctx, cfg, in, id, roots, q.newClient)
	if err != nil {
		return nil, err
	}
	return q, nil
}

// newQueueClient returns the client for the queue. It sends only to https on its host.
func newQueueClient(cfg provider.Config, in *integration.Integration, roots *x509.CertPool, host string) *http.Client {
	return newClient(cfg, in, roots, maxMessages, map[string]bool{"https://" + host: true}, nil)
}

// newClient creates the client of a session. The SDK's own authentication follows the
// challenge of a server, which may name any service: then a server in the queue's position
// could obtain the identity's token for the vaults. So the scope is fixed here.
func (q *queue) newClient(opts azcore.ClientOptions, tokens *tokenSource) (*azqueue.QueueClient, error) {
	opts.Transport = q.queueHTTP
	opts.PerRetryPolicies = []policy.Policy{runtime.NewBearerTokenPolicy(tokens, []string{storageScope}, nil)}
	client, err := azqueue.NewQueueClientWithNoCredential(q.url, &azqueue.ClientOptions{ClientOptions: opts})
	if err != nil {
		return nil, storeerror.Setup("azure.events.queue_url: cannot create a client for the queue").WithCause(err)
	}
	return client, nil
}

// Receive implements provider.EventSource.
func (q *queue) Receive(ctx context.Context) ([]provider.EventMessage, error) {
	for waited := time.Duration(0); ; {
		messages, err := q.poll(ctx)
		if err != nil || len(messages) > 0 {
			return messages, err
		}
		interval := idlePoll
		if q.quick > 0 {
			q.quick--
			interval = quickPoll
		}
		waited += interval
		if !q.wait(ctx, interval) || waited >= receiveTime {
			return nil, nil
		}
	}
}

// poll asks for messages once.
func (q *queue) poll(ctx context.Context) ([]provider.EventMessage, error) {
	resp, err := request(ctx, q.login, q.host, func(ctx context.Context, c *azqueue.QueueClient) (azqueue.DequeueMessagesResponse, error) {
		return c.DequeueMessages(ctx, &azqueue.DequeueMessagesOptions{NumberOfMessages: new(int32(receiveMax)), VisibilityTimeout: new(int32(visibility))})
	})
	if err != nil {
		return nil, q.explain(ctx, err)
	}
	messages := make([]provider.EventMessage, 0, len(resp.Messages))
	for _, m := range resp.Messages[:min(len(resp.Messages), receiveMax)] {
		if m != nil && m.MessageID != nil && m.PopReceipt != nil && storeerror.Plain(*m.MessageID) != "" {
			messages = append(messages, eventMessage(m))
		}
	}
	if len(messages) > 0 {
		q.quick = quickPolls
	}
	return messages, nil
}

func eventMessage(m *azqueue.DequeuedMessage) provider.EventMessage {
	e := provider.EventMessage{ID: *m.MessageID, Handle: delivery{*m.MessageID, *m.PopReceipt}}
	if m.DequeueCount != nil {
		e.Deliveries = int(*m.DequeueCount)
	}
	if m.InsertionTime != nil {
		e.SentAt = *m.InsertionTime
	}
	if m.MessageText == nil {
		e.Problem = "the message has no text"
		return e
	}
	if err := task.Contain(func() error {
		e.Events, e.Problem = parseMessage(*m.MessageText)
		return nil
	}); err != nil {
		e.Events, e.Problem = nil, "the broker cannot handle the message"
	}
	return e
}

// Acknowledge implements provider.EventSource. A message that has been delivered again
// meanwhile belongs to that delivery, so it is left alone.
func (q *queue) Acknowledge(ctx context.Context, messages []provider.EventMessage) error {
	var deletions errgroup.Group // concurrent, so that a flood of messages does not delay a true one
	for _, m := range messages {
		d, ok := m.Handle.(delivery)
		if !ok {
			continue
		}
		deletions.Go(func() error {
			_, err := request(ctx, q.login, q.host, func(ctx context.Context, c *azqueue.QueueClient) (azqueue.DeleteMessageResponse, error) {
				return c.DeleteMessage(ctx, d.id, d.receipt, nil)
			})
			if err != nil && !alreadyGone(err) {
				return q.explain(ctx, err)
			}
			return nil
		})
	}
	return deletions.Wait()
}

// Check implements provider.EventSource. It looks at the first message without receiving
// it: the role that permits to receive also permits this, and the properties of the queue
// would need another role.
func (q *queue) Check(ctx context.Context) []provider.Step {
	var steps []provider.Step
	step := provider.Step{Step: provider.StepEvents, Store: q.url}
	if q.own {
		token := provider.Step{Step: provider.StepToken, Found: "the login authority issued an access token for the queue"}
		if _, err := q.session().tokens.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{storageScope}, EnableCAE: true}); err != nil {
			token = provider.Step{Step: provider.StepToken, Err: q.explain(ctx, err)}
			step.Skipped = true
		}
		steps = append(steps, token)
	}
	if !step.Skipped {
		_, err := request(ctx, q.login, q.host, func(ctx context.Context, c *azqueue.QueueClient) (azqueue.PeekMessagesResponse, error) {
			return c.PeekMessage(ctx, nil)
		})
		if err != nil {
			step.Err = q.explain(ctx, err)
		} else {
			step.Found = "the identity may look at messages of the queue; whether it may receive and delete them was not tested, because that would take one"
		}
	}
	return append(steps, step)
}

// Close implements provider.EventSource.
func (q *queue) Close() error {
	err := q.close()
	q.queueHTTP.CloseIdleConnections()
	return err
}

// pause waits for d. It returns false if ctx ended before.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// alreadyGone reports whether a message cannot be deleted because it has been deleted or
// delivered again.
func alreadyGone(err error) bool {
	var re *azcore.ResponseError
	return errors.As(err, &re) && (re.ErrorCode == "MessageNotFound" || re.ErrorCode == "PopReceiptMismatch")
}
