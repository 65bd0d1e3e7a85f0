package provider

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
)

// EventSource receives messages in which a cloud says that secrets have changed: from a queue
// that the cloud's events are delivered to, or from the kernel for a directory.
//
// A message is only a hint that a secret may be worth reading. It is not evidence: anyone
// who may write to the queue can write any message. A source therefore does not decide
// whether a message is true. It only reports which secret the message names.
//
// Receive and Acknowledge are called by one goroutine, Check and Close also by others.
// Implementations contact no host but those that the integration determines, and return
// errors that are *secret.Error and contain nothing of a message. They parse each message
// within task.Contain, so that a message that makes the parser panic becomes one with a
// Problem and does not affect the others.
type EventSource interface {
	// Receive waits for messages until one arrives, ctx ends, or about 20 s have passed. It
	// returns at most 10 messages. The queue does not deliver them again for at least 30
	// seconds.
	Receive(ctx context.Context) ([]EventMessage, error)
	// Acknowledge removes messages from the queue, so that they are not delivered again.
	// After an error some of them may have been removed.
	Acknowledge(ctx context.Context, messages []EventMessage) error
	// Check tests whether the source can be used, without receiving a message. Its steps are
	// StepEvents, and StepToken or the like if the source has a credential of its own.
	Check(ctx context.Context) []Step
	// Close releases connections. No Receive or Acknowledge may be running or follow.
	Close() error
}

// EventMessage is one message of an EventSource.
type EventMessage struct {
	// ID is the queue's id of the message, the same at each delivery; "" if it has none.
	ID string
	// Handle identifies the delivery for Acknowledge. Only the source uses it.
	Handle any
	// Deliveries is how often the message has been delivered, with this time; 0 if the
	// queue does not say.
	Deliveries int
	// SentAt is when the message was put into the queue, by the queue's clock; zero if the
	// queue does not say.
	SentAt time.Time
	// Events are the changes that the message reports. A message about something that does
	// not concern the values of secrets has none, and is acknowledged.
	Events []Event
	// Problem, if not "", is why the message could not be understood, such as "the body is
	// not JSON". It quotes nothing of the message.
	Problem string
}

// Event says that a secret may have another value now.
type Event struct {
	// Store is the store as in a secret.Ref of the kind: canonical, in any of the names that
	// the store has. Whether an integration has this store is not the source's decision.
	Store string
	// Name and Suffix are as in a secret.Ref; Suffix is "" if the event does not have it.
	// An empty Name means that any secret of Store may have another value: the source knows
	// that something changed, but not what. Only a LOCAL_FILE source may say so: anyone who
	// may write to a queue could otherwise make the broker read everything.
	Name, Suffix string
	// Label is the version of a secret.Ref that the event is about: "" for the current
	// version, or a label such as a staging label of AWS. A Ref with another Version is not
	// read because of the event. AnyLabel means the current version and all labels; Version
	// is then that of the current one.
	Label string
	// Version is the version that the secret has now according to the event, in the form of
	// secret.Secret.Version. A secret that is known to have this version is not read. It is ""
	// if the event does not say, or if more than the version may have changed, as when a
	// version was disabled or destroyed: then the secret is always read.
	Version string
	// At is when the secret changed, by the cloud's clock; zero if the event does not say.
	At time.Time
	// Type is the cloud's name for the kind of event, such as "Secret Label Updated". It is
	// one of those that the source knows, never a text from the message.
	Type string
}

// AnyLabel as the Label of an Event means the current version and all labels.
const AnyLabel = "*"

// JSONElements returns the first most elements of a JSON array. It decodes no further, because
// a message of many small elements would cost much processor time and memory. ok is false if
// data is not an array; what follows the first most elements is not checked.
func JSONElements(data []byte, most int) (elements []json.RawMessage, ok bool) {
	d := json.NewDecoder(bytes.NewReader(data))
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return nil, false
	}
	for len(elements) < most && d.More() {
		var e json.RawMessage
		if d.Decode(&e) != nil {
			return nil, false
		}
		elements = append(elements, e)
	}
	if len(elements) == most {
		return elements, true
	}
	if t, err := d.Token(); err != nil || t != json.Delim(']') {
		return nil, false
	}
	_, err := d.Token()
	return elements, errors.Is(err, io.EOF)
}

// EventOpener opens the EventSource of an integration whose settings configure one; see
// integration.EventSettings. It reads credential files but sends no request.
type EventOpener func(ctx context.Context, in *integration.Integration) (EventSource, error)
