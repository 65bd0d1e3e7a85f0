package awssm

import (
	"bytes"
	"encoding/json"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// message is an event of EventBridge, or a notification of SNS. encoding/json matches the
// names of fields in any case. Its fields accept every JSON value, and ignore what they
// cannot use.
type message struct {
	DetailType text  `json:"detail-type"`
	Source     text  `json:"source"`
	Account    text  `json:"account"`
	Region     text  `json:"region"`
	Time       text  `json:"time"`
	Resources  texts `json:"resources"`
	Detail     nested[fields]
	// Type and Message are those of a notification.
	Type, Message text
	// fields is for messages that consist of a part of an event.
	fields
}

// fields are the fields of the detail of an event.
type fields struct {
	Name, ARN, LabelUpdated text
	VersionID               text `json:"versionId"`
	SecretID                text `json:"secretId"`

	EventName, EventType, EventSource, EventTime text
	ErrorCode, AWSRegion                         text
	RequestParameters, ResponseElements          nested[parameters]
	AdditionalEventData                          nested[parameters]
}

// parameters are those of a call in CloudTrail, its result, or the data of an event.
type parameters struct {
	Name, ARN          text
	SecretID           text `json:"secretId"`
	VersionID          text `json:"versionId"`
	VersionStage       text
	VersionStages      texts
	MoveToVersionID    text `json:"moveToVersionId"`
	ClientRequestToken text
}

// text is a text without white space around it, and "" for any other JSON value than a
// string or number.
type text string

// UnmarshalJSON implements json.Unmarshaler.
func (t *text) UnmarshalJSON(data []byte) error {
	var s string
	switch {
	case data[0] == '"':
		if err := json.Unmarshal(data, &s); err != nil {
			return err
		}
	case data[0] == '-' || data[0] >= '0' && data[0] <= '9':
		s = string(data)
	}
	*t = text(strings.TrimSpace(s))
	return nil
}

// is reports whether t is s, in any case.
func (t text) is(s string) bool { return strings.EqualFold(string(t), s) }

// version returns t if it can be the ID of a version, and otherwise "".
func (t text) version() string {
	if secret.IsAWSVersionID(string(t)) {
		return string(t)
	}
	return ""
}

// isLabel reports whether t is a staging label that a reference can have.
func (t text) isLabel() bool {
	ref, err := secret.ParseRef("https://secretsmanager.us-east-1.amazonaws.com::x#" + string(t))
	return err == nil && t != "" && ref.Version == string(t) && ref == secret.Ref{Kind: ref.Kind, Store: ref.Store, Name: "x", Version: ref.Version}
}

// time returns the zero time if t is not a time.
func (t text) time() time.Time {
	at, err := time.Parse(time.RFC3339Nano, string(t))
	if err != nil {
		return time.Time{}
	}
	return at.UTC()
}

// texts is a list of texts, or a single one.
type texts []text

// UnmarshalJSON implements json.Unmarshaler.
func (t *texts) UnmarshalJSON(data []byte) error {
	*t = nil
	if data[0] == '[' {
		return json.Unmarshal(data, (*[]text)(t))
	}
	var one text
	if err := one.UnmarshalJSON(data); err != nil || one == "" {
		return err
	}
	*t = texts{one}
	return nil
}

// nested is an object, or a string that contains one as JSON.
type nested[T any] struct {
	given bool
	value T
}

// UnmarshalJSON implements json.Unmarshaler.
func (n *nested[T]) UnmarshalJSON(data []byte) error {
	if data[0] == '"' {
		var s string
		if err := json.Unmarshal(data, &s); err != nil {
			return err
		}
		if data = bytes.TrimSpace([]byte(s)); !json.Valid(data) {
			return nil
		}
	}
	if data[0] != '{' {
		return nil
	}
	n.given = true
	return json.Unmarshal(data, &n.value)
}
