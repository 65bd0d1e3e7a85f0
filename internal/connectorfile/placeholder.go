package connectorfile

import (
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// placeholder is Kafka's pattern of a placeholder, ${provider:path:key} or ${provider:key}.
// Source: org.apache.kafka.common.config.ConfigTransformer.
var placeholder = regexp.MustCompile(`\$\{([^}]*?):(([^}]*?):)?([^}]*?)\}`)

// Placeholder is one placeholder for the broker in a property's value.
type Placeholder struct {
	// Property is the property that contains it.
	Property string
	// Integration and Reference are the parts as they are written.
	Integration, Reference string
	// Connector is the decoded name of the connector behind the integration, "" if there is
	// none.
	Connector string
	// Whole says that the value is the placeholder and nothing else.
	Whole bool
	// Line is the line of the property in the file, counted from 1.
	Line int
	// Fault is what is wrong with the placeholder, "" if nothing. It quotes nothing. With a
	// fault, Integration, Connector, Reference and Whole are zero.
	Fault string
}

// Placeholders returns the placeholders of the given providers in all properties, sorted by
// property and place. Aliases are the names under which workers know the broker's config
// provider. Placeholders of other providers are skipped.
func (c Connector) Placeholders(aliases ...string) []Placeholder {
	found := c.RawPlaceholders(aliases...)
	for i := range found {
		p := &found[i]
		integration, label, labelled := strings.Cut(p.Integration, "/")
		if !labelled {
			continue
		}
		name, fault := decodeLabel(label)
		if integration == "" {
			fault = "the placeholder names no integration; write ${ALIAS:INTEGRATION/CONNECTOR:REFERENCE}"
		}
		if fault != "" {
			*p = Placeholder{Property: p.Property, Line: p.Line, Fault: fault}
			continue
		}
		p.Integration, p.Connector = integration, name
	}
	return found
}

// RawPlaceholders is Placeholders for config providers of others: Integration is the whole
// path of a placeholder.
func (c Connector) RawPlaceholders(aliases ...string) []Placeholder {
	var found []Placeholder
	for _, property := range slices.Sorted(maps.Keys(c.Configs)) {
		for _, p := range placeholdersOf(c.Configs[property], aliases) {
			p.Property, p.Line = property, c.Lines[property]
			found = append(found, p)
		}
	}
	return found
}

// maxConnector is the maximum length of a connector's name that the broker accepts, in bytes.
const maxConnector = 256

// decodeLabel returns the name of the connector in a placeholder, which is percent-encoded, or
// what is wrong with it. The config provider for Kafka Connect follows the same rules.
func decodeLabel(label string) (name, fault string) {
	if strings.Contains(label, "/") {
		return "", "the connector behind the / of the placeholder contains another /; write %2F for a / in its name"
	}
	name, err := url.PathUnescape(label)
	switch {
	case err != nil || !utf8.ValidString(name):
		return "", "the connector behind the / of the placeholder is not percent-encoded UTF-8; write %25 for a % in its name"
	case name == "":
		return "", "the connector behind the / of the placeholder is empty; write its name, or leave out the /"
	case len(name) > maxConnector:
		return "", "the connector behind the / of the placeholder is longer than 256 bytes"
	case strings.ContainsFunc(name, func(r rune) bool { return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' }):
		return "", "the connector behind the / of the placeholder contains a control character"
	}
	return name, ""
}

// encodeLabel returns a connector's name as a placeholder has it, or false if it cannot have
// it.
func encodeLabel(name string) (label string, ok bool) {
	// Kafka ends a path at a colon and a placeholder at a brace; the rest is for readers.
	label = strings.ReplaceAll(url.PathEscape(name), ":", "%3A")
	decoded, fault := decodeLabel(label)
	return label, fault == "" && decoded == name
}

func placeholdersOf(value string, aliases []string) []Placeholder {
	var found []Placeholder
	end := 0 // of the previous placeholder
	// Kafka would send the text of a placeholder that is not closed to the connector.
	unclosed := func(text string) {
		for _, alias := range aliases {
			if strings.Contains(text, "${"+alias+":") {
				found = append(found, Placeholder{Fault: `the placeholder has no closing "}"`})
			}
		}
	}
	for _, m := range placeholder.FindAllStringSubmatchIndex(value, -1) {
		provider := value[m[2]:m[3]]
		unclosed(value[end:m[0]])
		end = m[1]
		nested := slices.ContainsFunc(aliases, func(alias string) bool { return strings.HasSuffix(provider, "${"+alias) })
		if !nested && !slices.Contains(aliases, provider) {
			continue
		}
		p := Placeholder{Reference: value[m[8]:m[9]], Whole: m[0] == 0 && m[1] == len(value)}
		switch {
		case nested:
			p.Fault = "the placeholder begins inside another"
		case m[4] < 0:
			p.Fault = "the placeholder names no integration; write ${" + provider + ":INTEGRATION:REFERENCE}"
		case m[6] < m[7] && (strings.HasPrefix(p.Reference, "//") || strings.HasPrefix(p.Reference, ":") || value[m[6]:m[7]] == "arn"):
			p.Fault = "the placeholder has its reference where the integration belongs; write ${" + provider + ":INTEGRATION:REFERENCE}"
		default:
			p.Integration = value[m[6]:m[7]]
			if p.Integration == "" || p.Reference == "" {
				p.Fault = "the placeholder names no integration or no reference; write ${" + provider + ":INTEGRATION:REFERENCE}"
			}
		}
		if p.Fault != "" {
			p = Placeholder{Fault: p.Fault}
		}
		found = append(found, p)
	}
	unclosed(value[end:])
	return found
}

// Providers returns the names of the config providers in the placeholders of each property
// that has any, in the order of their places.
func (c Connector) Providers() map[string][]string {
	found := make(map[string][]string)
	for property, value := range c.Configs {
		for _, m := range placeholder.FindAllStringSubmatch(value, -1) {
			found[property] = append(found[property], m[1])
		}
	}
	return found
}
