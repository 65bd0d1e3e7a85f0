package awssm

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"

	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// labelUpdated is the type of Secrets Manager's own event.
const labelUpdated = "Secret Label Updated"

// The types of the events that CloudTrail makes.
const (
	apiCall      = "AWS API Call via CloudTrail"
	serviceEvent = "AWS Service Event via CloudTrail"
)

// untyped is the provider.Event.Type of messages in which an input transformer has left out
// the type.
const untyped = "untyped"

// eventSource and cloudTrailSource name Secrets Manager in events.
const (
	eventSource      = "aws.secretsmanager"
	cloudTrailSource = "secretsmanager.amazonaws.com"
)

// maxEvents limits the events of one message, and maxBody its size in bytes: events have some
// 10 KiB, and a message of 1 MiB can cost much processor time.
const (
	maxEvents = 100
	maxBody   = 256 << 10
)

const (
	tooLarge     = "the body is larger than an event of Secrets Manager"
	notJSON      = "the body is not JSON"
	notObject    = "the body is not a JSON object"
	notEvent     = "the message is not an event of Secrets Manager; check the pattern of the EventBridge rule"
	noSecret     = "the message names no secret; check the input transformer of the EventBridge rule"
	confirmation = "the message asks to confirm an SNS subscription; confirm it, or create the subscription in the queue's account"
)

// messageParser finds events in the messages of a queue. It accepts the documented forms,
// what input transformers make of them (parts, other cases, white space, null), and
// notifications of SNS around them.
type messageParser struct {
	// region and account are those of the queue, for messages that leave them out.
	region, account string
}

// parse returns the events of a message, or a provider.EventMessage.Problem.
func (p messageParser) parse(body string) (events []provider.Event, problem string) {
	if len(body) > maxBody {
		return nil, tooLarge
	}
	data := bytes.TrimSpace([]byte(body))
	if !json.Valid(data) {
		decoded, err := base64.StdEncoding.DecodeString(string(data))
		if err != nil || !json.Valid(decoded) {
			return nil, notJSON
		}
		data = decoded
	}
	events, problem = p.parseJSON(data, true)
	return distinct(events), problem
}

// parseJSON is parse for valid JSON. It unpacks a list or a notification only if outer is
// true, so that nothing is nested.
func (p messageParser) parseJSON(data []byte, outer bool) (events []provider.Event, problem string) {
	data = bytes.TrimSpace(data)
	var m message
	switch {
	case data[0] == '[' && outer:
		return p.parseList(data)
	case data[0] == '"':
		_ = json.Unmarshal(data, &m.ARN) // the type accepts everything
		return p.events(&m)
	case data[0] != '{' || json.Unmarshal(data, &m) != nil:
		return nil, notObject
	case m.Type.is("Notification") && m.Message != "" && outer:
		inner := []byte(m.Message)
		if !json.Valid(inner) {
			return nil, notJSON
		}
		return p.parseJSON(inner, false)
	case m.Type.is("SubscriptionConfirmation"):
		return nil, confirmation
	default:
		return p.events(&m)
	}
}

// parseList parses a list of events or ARNs.
func (p messageParser) parseList(data []byte) (events []provider.Event, problem string) {
	elements, ok := provider.JSONElements(data, maxEvents)
	if !ok || len(elements) == 0 {
		return nil, notObject
	}
	for _, element := range elements {
		found, fault := p.parseJSON(element, false)
		events = append(events, found...)
		if fault != "" {
			problem = fault
		}
	}
	if len(events) > 0 {
		problem = "" // the rest is about something else
	}
	return events, problem
}

// events returns the events of an event of EventBridge, or of a part of one.
func (p messageParser) events(m *message) (events []provider.Event, problem string) {
	d := &m.fields
	if m.Detail.given {
		d = &m.Detail.value
	}
	kind := m.DetailType
	if kind == "" && d.EventName != "" {
		if kind = apiCall; d.EventType.is("AwsServiceEvent") {
			kind = serviceEvent
		}
	}
	var changes []provider.Event
	var names []secretName
	switch {
	case kind.is(labelUpdated), kind == "":
		changes = []provider.Event{moved(labelUpdated, d.LabelUpdated, d.VersionID)}
		if kind == "" {
			changes[0].Type = untyped
		}
		names = p.named(m, d)
	case d.EventSource != "" && !d.EventSource.is(cloudTrailSource):
		return nil, notEvent
	case d.ErrorCode != "":
		return nil, "" // the call changed nothing
	case kind.is(apiCall):
		changes = called(d)
		names = p.requested(m, d)
	case kind.is(serviceEvent):
		if d.EventName.is("RotationSucceeded") {
			changes = []provider.Event{{Type: "RotationSucceeded", Label: provider.AnyLabel}}
		}
		names = append(parseARN(d.AdditionalEventData.value.SecretID, true), p.byName(m, d, d.AdditionalEventData.value.SecretID)...)
	case !m.Source.is(eventSource):
		return nil, notEvent
	}
	if len(changes) == 0 {
		return nil, "" // not about values
	}
	if len(names) == 0 {
		return nil, noSecret
	}
	return m.combine(d, changes, names), ""
}

// combine returns each change of each secret.
func (m *message) combine(d *fields, changes []provider.Event, names []secretName) (events []provider.Event) {
	at := m.Time.time()
	if at.IsZero() {
		at = d.EventTime.time()
	}
	for _, n := range names {
		for _, e := range changes {
			e.Store, e.Name, e.Suffix, e.At = n.store, n.name, n.suffix, at
			events = append(events, e)
		}
	}
	return events
}

// moved returns the change that a label was moved to a version.
func moved(kind string, label, version text) provider.Event {
	e := provider.Event{Type: kind, Label: provider.AnyLabel}
	switch {
	case label.is(secret.AWSCurrent):
		e.Version = version.version()
	case label.isLabel():
		e.Label, e.Version = string(label), version.version()
	}
	return e
}

// called returns the changes that a successful call has made to a secret. Calls that leave
// all values as they are, among them RotateSecret and CancelRotateSecret, make none.
func called(d *fields) []provider.Event {
	in, out := &d.RequestParameters.value, &d.ResponseElements.value
	change := func(kind string) provider.Event { return provider.Event{Type: kind, Label: provider.AnyLabel} }
	switch {
	case d.EventName.is("PutSecretValue"):
		version := out.VersionID
		if version == "" {
			version = in.ClientRequestToken // AWS makes it the ID of the version
		}
		stages := in.VersionStages[:min(len(in.VersionStages), maxEvents)]
		if len(stages) == 0 || slices.ContainsFunc(stages, func(s text) bool { return s.is(secret.AWSCurrent) }) {
			stages = []text{secret.AWSCurrent}
		}
		changes := make([]provider.Event, len(stages))
		for i, stage := range stages {
			changes[i] = moved("PutSecretValue", stage, version)
		}
		return changes
	case d.EventName.is("UpdateSecretVersionStage"):
		return []provider.Event{moved("UpdateSecretVersionStage", in.VersionStage, in.MoveToVersionID)}
	case d.EventName.is("CreateSecret"):
		return []provider.Event{moved("CreateSecret", secret.AWSCurrent, out.VersionID)}
	case d.EventName.is("UpdateSecret"): // its token is not a version unless the call has a value
		return []provider.Event{moved("UpdateSecret", secret.AWSCurrent, out.VersionID)}
	case d.EventName.is("RestoreSecret"):
		return []provider.Event{change("RestoreSecret")}
	case d.EventName.is("DeleteSecret"):
		return []provider.Event{change("DeleteSecret")}
	default:
		return nil
	}
}

// distinct returns the events without repetitions, at most maxEvents.
func distinct(events []provider.Event) []provider.Event {
	var all []provider.Event
	for _, e := range events[:min(len(events), maxEvents)] {
		if !slices.Contains(all, e) {
			all = append(all, e)
		}
	}
	return all
}

// secretName is how an event names a secret.
type secretName struct{ store, name, suffix string }

// named returns the secrets that an event names by their ARNs, or else by a name.
func (p messageParser) named(m *message, d *fields) (names []secretName) {
	for _, arn := range append([]text{d.ARN, m.ARN}, m.Resources[:min(len(m.Resources), maxEvents)]...) {
		names = append(names, parseARN(arn, true)...)
	}
	if len(names) > 0 {
		return names
	}
	names = append(parseARN(d.SecretID, false), p.byName(m, d, d.SecretID)...)
	return append(names, p.byName(m, d, d.Name)...)
}

// requested returns the secrets that a call of the API is about. The response has the
// complete ARN, the request what the caller has typed.
func (p messageParser) requested(m *message, d *fields) (names []secretName) {
	if names = parseARN(d.ResponseElements.value.ARN, true); len(names) > 0 {
		return names
	}
	in := &d.RequestParameters.value
	if names = append(parseARN(in.SecretID, false), p.byName(m, d, in.SecretID)...); len(names) > 0 {
		return names
	}
	return p.byName(m, d, in.Name)
}

// byName returns the secret with a name, in the account and region of the event.
func (p messageParser) byName(m *message, d *fields, name text) []secretName {
	region, account := p.region, p.account
	for _, r := range []text{d.AWSRegion, m.Region} {
		if _, ok := secret.AWSPartitionOf(string(r)); ok {
			region = string(r)
		}
	}
	if secret.IsAWSAccount(string(m.Account)) {
		account = string(m.Account)
	}
	store := secret.AWSAccountStore(region, account)
	if !isName(string(name)) || store == "" {
		return nil
	}
	return []secretName{{store: store, name: string(name)}}
}

// isName reports whether s is a secret's name that a reference can have.
func isName(s string) bool {
	ref, err := secret.ParseRef("https://secretsmanager.us-east-1.amazonaws.com::" + s)
	return err == nil && ref.Name == s
}

// parseARN returns the secret that an ARN names. If the ARN may be incomplete, because a
// person has typed it, it returns both secrets that it can name: the end of a name can look
// like a suffix.
func parseARN(arn text, complete bool) (names []secretName) {
	if len(arn) > 2048 || !strings.HasPrefix(string(arn), "arn:") {
		return nil
	}
	if ref, err := secret.ParseRef(string(arn)); err == nil && ref.Suffix != "" && ref.Version == "" && ref.String() == string(arn) && ref == ref.Secret() {
		names = append(names, secretName{ref.Store, ref.Name, ref.Suffix})
	}
	if len(names) > 0 && complete {
		return names
	}
	account, name, _ := strings.Cut(string(arn), ":secret:")
	store, err := secret.KindAWSSecretsManager.ParseStore(account)
	if err == nil && strings.HasPrefix(store, "arn:") && isName(name) {
		names = append(names, secretName{store: store, name: name})
	}
	return names
}
