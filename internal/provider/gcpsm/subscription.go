package gcpsm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/egress"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/provider/task"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const (
	// pollTime is how long Pub/Sub waits for a message.
	pollTime = 20 * time.Second
	// emptyPause is the least time for a Receive without messages. Pub/Sub may respond at once
	// that there are none.
	emptyPause = time.Second
	// ackDeadline is how long Pub/Sub delivers a message to no other receiver, in seconds.
	ackDeadline = 60
	// maxMessages is the maximum number of messages in one response.
	maxMessages = 10
	// maxPollBody limits a response with messages, in bytes. A message has at most 100
	// attributes with 1,280 bytes, each of which JSON encodes with six at worst.
	maxPollBody = 8 << 20
)

// pullFields selects what a response of "pull" contains. A message's data is not needed, and
// has up to 10 MB.
const pullFields = "receivedMessages(ackId,deliveryAttempt,message(attributes,messageId,publishTime))"

// EventOpener returns the provider.EventOpener of Pub/Sub. Its errors are as those of Opener.
func EventOpener(cfg provider.Config) provider.EventOpener {
	return func(ctx context.Context, in *integration.Integration) (provider.EventSource, error) {
		return subscribe(ctx, cfg, in, pollTime)
	}
}

// subscription receives the notifications of Secret Manager from a subscription of Pub/Sub.
// It uses four methods of the REST API, version v1: the official client adds 16 modules for
// them, and has the other disadvantages that the package's documentation names.
type subscription struct {
	*connection
	to    *Events
	poll  time.Duration // how long Pub/Sub waits for a message, in whole seconds
	parse messageParser
}

func subscribe(ctx context.Context, cfg provider.Config, in *integration.Integration, poll time.Duration) (*subscription, error) {
	g := settingsOf(in)
	if in.Kind != secret.KindGCPSecretManager || g == nil || g.Events == nil || !isSubscription(g.Events.Subscription) {
		return nil, storeerror.Setup("the integration has no gcp.events")
	}
	c, err := connect(ctx, cfg, in, connectConfig{
		login: g.eventsLogin(), scope: pubsubScope, hosts: []string{g.Events.Host},
		change: func(out *egress.Config) {
			out.Timeout += poll
			out.MaxBody = maxPollBody
		},
	})
	if err != nil {
		return nil, err
	}
	return &subscription{connection: c, to: g.Events, poll: poll, parse: messageParser{stores: g.Stores}}, nil
}

// received is google.pubsub.v1.ReceivedMessage in JSON, as far as pullFields selects it.
type received struct {
	AckID           string `json:"ackId"`
	DeliveryAttempt int    `json:"deliveryAttempt"` // 0 without dead lettering
	Message         struct {
		Attributes  map[string]string `json:"attributes"`
		MessageID   string            `json:"messageId"`
		PublishTime time.Time         `json:"publishTime"`
	} `json:"message"`
}

// Receive implements provider.EventSource.
//
// A subscription may deliver messages again after ten seconds, so Receive extends that time.
// If it cannot, the messages may come twice.
func (s *subscription) Receive(ctx context.Context) ([]provider.EventMessage, error) {
	began := time.Now()
	body, err := s.call(ctx, "pull", "?fields="+url.QueryEscape(pullFields), map[string]any{"maxMessages": maxMessages})
	var answer *apiError
	switch {
	case ctx.Err() != nil:
		return nil, nil
	case errors.As(err, &answer) && answer.code == "DEADLINE_EXCEEDED":
		return nil, nil // no message has arrived within s.poll
	case err != nil && errors.Is(egress.OutageOf(err, advice).Cause, egress.ErrTimedOut):
		return nil, s.silent(ctx)
	case err != nil:
		return nil, s.explain(ctx, err)
	}
	var pulled struct {
		ReceivedMessages []json.RawMessage `json:"receivedMessages"`
	}
	if json.Unmarshal(body, &pulled) != nil { // the error quotes the response
		return nil, s.unexpected()
	}
	if len(pulled.ReceivedMessages) == 0 {
		wait(ctx, emptyPause-time.Since(began))
		return nil, nil
	}
	messages := make([]provider.EventMessage, 0, len(pulled.ReceivedMessages))
	for _, raw := range pulled.ReceivedMessages {
		if m, ok := s.message(raw); ok {
			messages = append(messages, m)
		}
	}
	if len(messages) == 0 {
		return nil, s.unexpected()
	}
	if _, err := s.call(ctx, "modifyAckDeadline", "", map[string]any{"ackIds": handles(messages), "ackDeadlineSeconds": ackDeadline}); err != nil {
		s.cfg.Logger.Warn("cannot extend the time for which Pub/Sub does not deliver messages again; some may arrive twice", "error", s.explain(ctx, err))
	}
	return messages, nil
}

// silent returns why Pub/Sub has not responded at all, or nil if it is there: it may wait longer
// for a message than it was asked to.
func (s *subscription) silent(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.TryTimeout)
	defer cancel()
	return s.mayReceive(ctx)
}

// wait waits for d, or until ctx ends.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// message converts a message. ok is false if it cannot be acknowledged.
func (s *subscription) message(raw json.RawMessage) (out provider.EventMessage, ok bool) {
	var r received
	if json.Unmarshal(raw, &r) != nil {
		// Something of the message is of another type; its handle may still be usable.
		var handle struct {
			AckID string `json:"ackId"`
		}
		_ = json.Unmarshal(raw, &handle) // an unreadable handle is empty
		return provider.EventMessage{Handle: handle.AckID, Problem: "the message has another form than those of Pub/Sub"}, handle.AckID != ""
	}
	out = provider.EventMessage{ID: r.Message.MessageID, Handle: r.AckID, Deliveries: max(0, r.DeliveryAttempt), SentAt: r.Message.PublishTime}
	if err := task.Contain(func() error {
		out.Events, out.Problem = s.parse.parse(r.Message.Attributes)
		return nil
	}); err != nil {
		out.Events, out.Problem = nil, "the broker cannot handle the message"
	}
	return out, r.AckID != ""
}

func handles(messages []provider.EventMessage) []string {
	ids := make([]string, 0, len(messages))
	for _, m := range messages {
		if id, ok := m.Handle.(string); ok {
			ids = append(ids, id)
		}
	}
	return ids
}

// Acknowledge implements provider.EventSource.
func (s *subscription) Acknowledge(ctx context.Context, messages []provider.EventMessage) error {
	if len(messages) == 0 {
		return nil
	}
	_, err := s.call(ctx, "acknowledge", "", map[string]any{"ackIds": handles(messages)})
	var answer *apiError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &answer) && answer.status == http.StatusBadRequest:
		// Only a subscription with exactly-once delivery says so.
		return secret.Errorf(secret.ReasonStoreUnavailable,
			"Pub/Sub did not acknowledge all messages, for example because the broker took too long; it will deliver them again").WithCause(storeerror.Answered(answer))
	default:
		return s.explain(ctx, err)
	}
}

// consume is the permission that receiving and acknowledging need.
const consume = "pubsub.subscriptions.consume"

// Check implements provider.EventSource. It asks for the identity's permissions, which needs
// no permission: reading the subscription would need one that receiving does not need.
func (s *subscription) Check(ctx context.Context) []provider.Step {
	var steps []provider.Step
	step := provider.Step{Step: provider.StepEvents, Store: s.to.Subscription}
	if s.to.ownsIdentity() {
		token := provider.Step{Step: provider.StepToken, Found: "the identity for events obtained an access token"}
		if _, err := s.tokens.Get(ctx); err != nil {
			token.Found, token.Err = "", explainLogin(ctx, err)
			step.Skipped = true
			return []provider.Step{token, step}
		}
		steps = append(steps, token)
	}
	if err := s.mayReceive(ctx); err != nil {
		step.Err = err
	} else {
		step.Found = "the identity may receive messages; receiving one was not tested, because Pub/Sub would not deliver it to others for some time"
	}
	return append(steps, step)
}

func (s *subscription) mayReceive(ctx context.Context) error {
	body, err := s.call(ctx, "testIamPermissions", "", map[string]any{"permissions": []string{consume}})
	if err != nil {
		return s.explain(ctx, err)
	}
	var granted struct {
		Permissions []string `json:"permissions"`
	}
	if json.Unmarshal(body, &granted) != nil {
		return s.unexpected()
	}
	if !slices.Contains(granted.Permissions, consume) {
		return s.denied(nil)
	}
	return nil
}

// call calls a method of the subscription, and returns the body of a 200 response.
func (s *subscription) call(ctx context.Context, method, query string, request any) (body []byte, err error) {
	content, err := json.Marshal(request)
	if err != nil { // cannot happen: requests consist of strings and numbers
		return nil, err
	}
	// The subscription's name has been checked, so it needs no escaping.
	to := "https://" + s.to.Host + "/v1/" + s.to.Subscription + ":" + method + query
	_, err = s.withToken(ctx, func(tok token) (answered bool, err error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(content))
		if err != nil {
			return false, err
		}
		req.Header.Set("Content-Type", "application/json")
		// Pub/Sub would wait for a minute and a half, and lend messages to a receiver that
		// has gone by then.
		req.Header.Set("X-Server-Timeout", strconv.Itoa(int(s.poll/time.Second)))
		s.authorize(req, tok)
		resp, err := s.api.Do(req)
		if err != nil {
			return false, err
		}
		defer func() { _ = resp.Body.Close() }() // it was only read
		body, err = io.ReadAll(resp.Body)        // egress limits the size
		if err != nil {
			return false, err
		}
		if resp.StatusCode != http.StatusOK {
			return true, parseError(resp.StatusCode, resp.Header, body)
		}
		return true, nil
	})
	return body, err
}

// Close implements provider.EventSource.
func (s *subscription) Close() error { return s.close() }
