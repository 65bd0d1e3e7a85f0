package gcpsm

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// The types of notifications that Secret Manager sends. Source: Secret Manager, "Set up
// notifications on a secret".
const (
	versionAdded = "SECRET_VERSION_ADD"
	// otherType is Event.Type for types that this package does not know.
	otherType = "another notification of Secret Manager"
)

// changing are the types of notifications after which reads of a secret may have other
// results. An update of a secret can move its aliases.
var changing = []string{
	versionAdded, "SECRET_VERSION_ENABLE", "SECRET_VERSION_DISABLE", "SECRET_VERSION_DESTROY", "SECRET_VERSION_DESTROY_SCHEDULED",
	"SECRET_UPDATE", "SECRET_DELETE",
}

// ignored are the types of other notifications: a secret without versions, a test message,
// and the time at which somebody should rotate a secret, which Secret Manager does not do.
var ignored = []string{"SECRET_CREATE", "TOPIC_CONFIGURED", "SECRET_ROTATE"}

// messageParser converts the attributes of messages to events of the stores of an
// integration.
type messageParser struct {
	stores []string
}

// parse returns the events of a message with the attributes, or what is wrong with it. It
// does not need the message's data, which repeats the attributes.
func (p messageParser) parse(attributes map[string]string) (events []provider.Event, problem string) {
	kind := attribute(attributes, "eventType")
	switch {
	case kind == "":
		return nil, "the message has no attribute eventType"
	case slices.Contains(ignored, kind):
		return nil, ""
	case slices.Contains(changing, kind):
	case strings.HasPrefix(kind, "SECRET_"):
		kind = otherType
	default:
		return nil, "the attribute eventType is not one of Secret Manager"
	}
	versionID := attribute(attributes, "versionId")
	of, ok := parseSecretID(attribute(attributes, "secretId"))
	if !ok {
		return nil, "the attribute secretId is not the name of a secret"
	}
	event := provider.Event{Name: of.Name, Label: provider.AnyLabel, Type: kind}
	if at, err := time.Parse(time.RFC3339, attribute(attributes, "timestamp")); err == nil {
		event.At = at
	}
	if kind == versionAdded {
		event.Label, event.Version = "", versionNumber(of, versionID)
	}
	for _, store := range p.named(of.Store) {
		event.Store = store
		events = append(events, event)
	}
	return events, ""
}

// attribute returns an attribute, without spaces around it. Its name may be written in another
// case.
func attribute(attributes map[string]string, name string) string {
	if value, ok := attributes[name]; ok {
		return strings.TrimSpace(value)
	}
	for _, other := range slices.Sorted(maps.Keys(attributes)) {
		if strings.EqualFold(strings.TrimSpace(other), name) {
			return strings.TrimSpace(attributes[other])
		}
	}
	return ""
}

// parseSecretID parses the resource name of a secret.
func parseSecretID(id string) (secret.Ref, bool) {
	id = strings.TrimPrefix(id, "//secretmanager.googleapis.com/")
	ref, err := secret.ParseRef(id)
	return ref, err == nil && ref.Kind == secret.KindGCPSecretManager && id == ref.Store+"/secrets/"+ref.Name
}

// versionNumber returns the number in a version's resource name, or in the number alone; ""
// if id is not that of a version of the secret.
func versionNumber(of secret.Ref, id string) string {
	if name, number, ok := strings.Cut(id, "/versions/"); ok {
		if named, ok := parseSecretID(name); !ok || named.Name != of.Name {
			return ""
		}
		id = number
	}
	of.Version = id
	if ref, err := secret.ParseRef(of.String()); err != nil || !isNumber(id) || ref.Version != id {
		return ""
	}
	return id
}

// maxNamed is the maximum number of names that named returns.
const maxNamed = 50

// named returns the names that the integration has for a store of a message. Google writes the
// project's number where most integrations have its ID. While no read has shown whose number it
// is, it may be that of each ID without a known number. For a wrong one, the event costs a read
// of a secret with the same name. It returns store itself if the integration does not have it.
func (p messageParser) named(store string) []string {
	var names, possible []string
	known := false
	for _, s := range p.stores {
		same, sure := sameProject(s, store)
		switch {
		case s == store, same && sure:
			names = append(names, s)
			known = known || s != store
		case same:
			possible = append(possible, s)
		}
	}
	if !known {
		names = append(names, possible...)
	}
	if len(names) == 0 {
		return []string{store}
	}
	return names[:min(len(names), maxNamed)]
}
