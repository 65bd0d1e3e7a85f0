package azurekv

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// eventType says what the broker makes of a type of event.
type eventType struct {
	// name is for people.
	name string
	// created means that the version in the event is new. The version in other events may
	// be known for long: such an event asks for a read because the dates of a secret can
	// change without an event.
	created bool
}

// eventTypes are the types of events after which a secret is worth reading, in lower case.
// A certificate is also a secret of the same name. A change of the access policy changes no
// value, so it is none of them: what the identity may read shows at the next read.
// Source: Event Grid, "Azure Key Vault as Event Grid source".
var eventTypes = map[string]eventType{
	"microsoft.keyvault.secretnewversioncreated":      {"Microsoft.KeyVault.SecretNewVersionCreated", true},
	"microsoft.keyvault.secretnearexpiry":             {"Microsoft.KeyVault.SecretNearExpiry", false},
	"microsoft.keyvault.secretexpired":                {"Microsoft.KeyVault.SecretExpired", false},
	"microsoft.keyvault.certificatenewversioncreated": {"Microsoft.KeyVault.CertificateNewVersionCreated", false},
	"microsoft.keyvault.certificatenearexpiry":        {"Microsoft.KeyVault.CertificateNearExpiry", false},
	"microsoft.keyvault.certificateexpired":           {"Microsoft.KeyVault.CertificateExpired", false},
}

// maxEvents is the maximum number of events of one message that are used. Event Grid puts one
// into a message of a queue.
const maxEvents = 100

// eventTypeOf returns the eventType of a type as in a message. It also knows types that Key
// Vault may add for secrets and certificates.
func eventTypeOf(text string) (t eventType, ok bool) {
	text = strings.ToLower(text)
	if t, ok := eventTypes[text]; ok {
		return t, true
	}
	for prefix, name := range map[string]string{
		"microsoft.keyvault.secret":      "another event of a secret",
		"microsoft.keyvault.certificate": "another event of a certificate",
	} {
		if strings.HasPrefix(text, prefix) {
			return eventType{name: name}, true
		}
	}
	return eventType{}, false
}

// parseMessage returns the events in the text of a message: one event or an array of them,
// in the Event Grid schema or as CloudEvents 1.0, as JSON or its base64. Names of fields are
// compared without case, and spaces around names and texts are ignored, because the
// documented samples differ in them. It ignores events that do not concern secrets, such as
// those that validate a subscription, and fetches no URL. problem is why the message has no
// event that can be understood; it quotes nothing.
func parseMessage(text string) (events []provider.Event, problem string) {
	body, ok := decodeText(text)
	if !ok {
		return nil, "the text is neither JSON nor its base64"
	}
	list := []json.RawMessage{json.RawMessage(body)}
	if body[0] == '[' {
		if list, ok = provider.JSONElements([]byte(body), maxEvents); !ok {
			return nil, "the text is not JSON"
		}
	}
	for _, one := range list {
		e, fault := parseEvent(one)
		switch {
		case fault != "":
			problem = fault
		case e != nil:
			events = append(events, *e)
		}
	}
	if len(events) > 0 {
		problem = ""
	}
	return events, problem
}

// decodeText returns the text, or what it is the base64 of, if that can be a JSON object or
// array.
func decodeText(text string) (body string, ok bool) {
	trim := func(s string) string { return strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(s), "\ufeff")) }
	isJSON := func(s string) bool { return s != "" && (s[0] == '{' || s[0] == '[') }
	if text = trim(text); isJSON(text) {
		return text, true
	}
	unpadded := strings.TrimRight(text, "=")
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		if b, err := encoding.DecodeString(unpadded); err == nil {
			body = trim(string(b))
			return body, isJSON(body)
		}
	}
	return "", false
}

// parseEvent returns the event that a JSON object describes, or nil if it does not concern a
// secret.
func parseEvent(object json.RawMessage) (e *provider.Event, fault string) {
	envelope, ok := fieldsOf(object)
	if !ok {
		return nil, "the text is not a JSON object"
	}
	text := envelope.text("eventtype", "type")
	if text == "" {
		return nil, "the message has no type of event"
	}
	kind, ok := eventTypeOf(text)
	if !ok {
		return nil, ""
	}
	data, ok := envelope.data()
	if !ok {
		return nil, "the event has no data"
	}
	e = data.secret()
	if e == nil {
		return nil, "the event does not name a secret of a vault of a known cloud"
	}
	e.Type = kind.name
	if !kind.created {
		e.Version = ""
	}
	if at, err := time.Parse(time.RFC3339, envelope.text("eventtime", "time")); err == nil {
		e.At = at
	}
	return e, ""
}

// eventFields are the fields of a JSON object, by name in lower case and without spaces
// around it.
type eventFields map[string]json.RawMessage

func fieldsOf(object json.RawMessage) (eventFields, bool) {
	var raw map[string]json.RawMessage
	if json.Unmarshal(object, &raw) != nil || raw == nil {
		return nil, false
	}
	fields := make(eventFields, len(raw))
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		key := strings.ToLower(strings.TrimSpace(name))
		if held, ok := fields[key]; !ok || string(held) == "null" {
			fields[key] = raw[name]
		}
	}
	return fields, true
}

// text returns the first of the named fields that is a text other than "".
func (f eventFields) text(names ...string) string {
	for _, name := range names {
		var s string
		if json.Unmarshal(f[name], &s) == nil {
			if s = strings.TrimSpace(s); s != "" {
				return s
			}
		}
	}
	return ""
}

// data returns the event's data: an object, its JSON in a text, or its base64.
func (f eventFields) data() (eventFields, bool) {
	if data, ok := fieldsOf(f["data"]); ok {
		return data, true
	}
	if body, ok := decodeText(f.text("data", "data_base64")); ok {
		return fieldsOf(json.RawMessage(body))
	}
	return nil, false
}

// secret returns the store, name and version of the secret that the data of an event
// identifies by its URL: the field "id", or whatever field has it. The name of the vault
// alone does not identify a vault, because the clouds have vaults of the same name.
func (f eventFields) secret() *provider.Event {
	e := parseObjectURL(f.text("id"))
	for _, name := range slices.Sorted(maps.Keys(f)) {
		if e == nil {
			e = parseObjectURL(f.text(name))
		}
	}
	if e != nil && e.Version == "" {
		e.Version = objectVersion(f.text("version"))
	}
	return e
}

// parseObjectURL parses https://VAULT/secrets/NAME/VERSION, the same of a certificate, and
// both without a version. It returns nil for any other text.
func parseObjectURL(text string) *provider.Event {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.User != nil {
		return nil
	}
	vault, err := secret.ParseAzureVault("https://" + u.Host)
	parts := strings.Split(strings.Trim(u.Path, "/"), "/")
	if err != nil || len(parts) < 2 || len(parts) > 3 {
		return nil
	}
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	if kind := strings.ToLower(parts[0]); kind != "secrets" && kind != "certificates" {
		return nil
	}
	name := parts[1]
	if name == "" || !secret.KindAzureKeyVault.ValidNamePart(name) {
		return nil
	}
	e := &provider.Event{Store: vault, Name: secret.KindAzureKeyVault.FoldName(name)}
	if len(parts) == 3 {
		e.Version = objectVersion(parts[2])
	}
	return e
}

// objectVersion returns a version in canonical form, or "" if it is none.
func objectVersion(text string) string {
	text = strings.ToLower(text)
	if len(text) != 32 || strings.Trim(text, "0123456789abcdef") != "" {
		return ""
	}
	return text
}
