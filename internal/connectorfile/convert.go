package connectorfile

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// The properties of Confluent's secret manager.
const (
	managerPrefix      = "secret.manager"
	managerEnabled     = "secret.manager.enabled"
	managerConfigs     = "secret.manager.managed.configs"
	managerIntegration = "secret.manager.provider.integration.id"
)

// ToPlaceholders converts the JSON of one connector that has secret.manager properties to
// one with placeholders ${alias:INTEGRATION:REFERENCE}, as workers of Kafka Connect resolve
// them. If labelled, they also name the connector: ${alias:INTEGRATION/CONNECTOR:REFERENCE}.
// Everything else keeps its order and its text. check returns what is wrong with a
// reference; its error must not quote the reference. changed is false, and the result is
// data, if the connector has no secret.manager properties. The error is an *Error.
func ToPlaceholders(data []byte, alias string, labelled bool, check func(reference string) error) (out []byte, changed bool, err error) {
	doc, err := newEditedJSON(data)
	if err != nil {
		return nil, false, err
	}
	c := doc.connector
	if len(c.Managed()) == 0 {
		return data, false, nil
	}
	enabled := strings.ToLower(c.Configs[managerEnabled])
	if enabled != "true" && enabled != "false" {
		return nil, false, faultf(c.Line(managerEnabled), "%s must be true or false", managerEnabled)
	}
	if enabled == "true" {
		if err := doc.insertPlaceholders(alias, labelled, check); err != nil {
			return nil, false, err
		}
	}
	for name := range c.Configs {
		if isManager(name) {
			doc.values[name] = nil
		}
	}
	out, err = doc.encode(nil)
	return out, err == nil, err
}

func isManager(name string) bool {
	return name == managerPrefix || strings.HasPrefix(name, managerPrefix+".")
}

// insertPlaceholders replaces the references of the configs that the connector lists.
func (d *editedJSON) insertPlaceholders(alias string, labelled bool, check func(string) error) error {
	c := d.connector
	label := ""
	if labelled {
		encoded, ok := encodeLabel(c.Name)
		if !ok {
			return faultf(0, "the placeholders cannot name the connector: its name is missing, longer than 256 bytes or contains a control character")
		}
		label = "/" + encoded
	}
	for _, p := range c.ManagedReferences() {
		if p.Fault != "" {
			return faultf(p.Line, "%s", p.Fault)
		}
		if strings.Contains(p.Reference, "}") {
			return faultf(p.Line, `the reference of %q contains "}", at which Kafka ends a placeholder; rename the JSON key in the secret`, p.Property)
		}
		if err := check(p.Reference); err != nil {
			return faultf(p.Line, "the value of %q is not a reference: %v", p.Property, err)
		}
		d.values[p.Property] = new("${" + alias + ":" + p.Integration + label + ":" + p.Reference + "}")
	}
	return nil
}

// ToManaged converts the JSON of one connector that has placeholders to one with
// secret.manager properties. kindOf returns the value of the property secret.manager for a
// reference; its error must not quote the reference. changed is false, and the result is
// data, if the connector has no placeholders of the aliases. The error is an *Error.
func ToManaged(data []byte, aliases []string, kindOf func(reference string) (string, error)) (out []byte, changed bool, err error) {
	doc, err := newEditedJSON(data)
	if err != nil {
		return nil, false, err
	}
	c := doc.connector
	placeholders := c.Placeholders(aliases...)
	switch {
	case len(placeholders) == 0:
		return data, false, nil
	case len(c.Managed()) > 0:
		return nil, false, faultf(c.Line(managerEnabled), "the configuration has secret.manager properties already")
	}
	var kind string
	id := placeholders[0].Integration
	names := make(map[string]bool)
	for _, p := range placeholders {
		switch {
		case p.Fault != "":
			return nil, false, faultf(p.Line, "the property %q: %s", p.Property, p.Fault)
		case !p.Whole:
			return nil, false, faultf(p.Line, "the property %q has text beside the placeholder; secret.manager replaces whole values only", p.Property)
		case p.Integration != id:
			return nil, false, faultf(p.Line, "the property %q belongs to another integration than %q; secret.manager names one integration", p.Property, placeholders[0].Property)
		case strings.ContainsAny(p.Property, ", \t"):
			return nil, false, faultf(p.Line, "the name of the property %q cannot be in the list %s", p.Property, managerConfigs)
		}
		k, err := kindOf(p.Reference)
		switch {
		case err != nil:
			return nil, false, faultf(p.Line, "the placeholder of %q has no valid reference: %v", p.Property, err)
		case kind != "" && k != kind:
			return nil, false, faultf(p.Line, "the reference of %q is of another kind than those before it; secret.manager names one kind", p.Property)
		}
		kind = k
		names[p.Property] = true
		doc.values[p.Property] = &p.Reference
	}
	out, err = doc.encode([][2]string{
		{managerEnabled, "true"}, {managerPrefix, kind},
		{managerConfigs, strings.Join(slices.Sorted(maps.Keys(names)), ",")}, {managerIntegration, id},
	})
	return out, err == nil, err
}

// editedJSON is a connector's JSON with changed properties.
type editedJSON struct {
	connector  Connector
	top        map[string]member
	properties map[string]member // those of top, or of its member "config"
	nested     bool
	// values are the new texts of properties. A nil one removes the property.
	values map[string]*string
}

func newEditedJSON(data []byte) (*editedJSON, error) {
	if len(data) > MaxSize {
		return nil, faultf(0, "the file is larger than 1 MiB, the maximum")
	}
	connectors, err := parseJSON(data)
	if err != nil {
		return nil, err
	}
	top, err := object(bytes.TrimLeft(data, " \t\r\n"), 1)
	if err != nil || expanded(top) {
		return nil, faultf(1, "expected the JSON of one connector")
	}
	d := &editedJSON{connector: connectors[0], top: top, properties: top, values: make(map[string]*string)}
	if config, ok := top["config"]; ok {
		d.nested = true
		if d.properties, err = object(config.value, config.valueLine); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// encode returns the JSON with more properties at the end, indented by two spaces.
func (d *editedJSON) encode(more [][2]string) ([]byte, error) {
	var properties bytes.Buffer
	d.write(&properties, d.properties, func(name string, m member) (json.RawMessage, bool) {
		value, changed := d.values[name]
		if !changed {
			return m.value, true
		}
		if value == nil {
			return nil, false
		}
		return quoted(*value), true
	}, more)
	all := &properties
	if d.nested {
		all = new(bytes.Buffer)
		d.write(all, d.top, func(name string, m member) (json.RawMessage, bool) {
			if name == "config" {
				return properties.Bytes(), true
			}
			return m.value, true
		}, nil)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, all.Bytes(), "", "  "); err != nil {
		return nil, faultf(0, "cannot write the configuration")
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

// write writes an object in the order of its members.
func (d *editedJSON) write(w *bytes.Buffer, members map[string]member, valueOf func(string, member) (json.RawMessage, bool), more [][2]string) {
	names := slices.SortedFunc(maps.Keys(members), func(a, b string) int { return members[a].index - members[b].index })
	w.WriteByte('{')
	first := true
	add := func(name string, value json.RawMessage) {
		if !first {
			w.WriteByte(',')
		}
		first = false
		w.Write(quoted(name))
		w.WriteByte(':')
		w.Write(value)
	}
	for _, name := range names {
		if value, ok := valueOf(name, members[name]); ok {
			add(name, value)
		}
	}
	for _, m := range more {
		add(m[0], quoted(m[1]))
	}
	w.WriteByte('}')
}

// quoted returns s as a JSON string, without the escapes for HTML.
func quoted(s string) json.RawMessage {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil { // cannot happen for a string
		panic(err)
	}
	return bytes.TrimSpace(b.Bytes())
}
