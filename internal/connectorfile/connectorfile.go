// Package connectorfile reads connector configurations as people keep them: the
// JSON of Kafka Connect's and Confluent's REST calls and CLI, with the
// properties flat or under "config".
//
// It knows file formats only. What a configuration means is decided by the
// broker.
package connectorfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// maxSize bounds a file, in bytes: far above any connector's configuration.
const maxSize = 1 << 20

// Connector is what a file says.
type Connector struct {
	// Name is the connector's name, empty if the file does not say.
	Name string
	// Configs are the connector's properties.
	Configs map[string]string
}

// Parse reads a connector's configuration. Numbers and booleans become text as
// they are written. Errors name the property and never quote a value.
func Parse(data []byte) (Connector, error) {
	if len(data) > maxSize {
		return Connector{}, fmt.Errorf("the file has %d bytes, the most is %d", len(data), maxSize)
	}
	top, err := object(data)
	if err != nil {
		return Connector{}, err
	}
	var c Connector
	properties := top
	if nested, ok := top["config"]; ok {
		if properties, err = object(nested); err != nil {
			return Connector{}, fmt.Errorf(`under "config": %w`, err)
		}
	}
	if c.Configs, err = texts(properties); err != nil {
		return Connector{}, err
	}
	c.Name = c.Configs["name"]
	if raw, ok := top["name"]; ok {
		if c.Name, err = text(raw); err != nil {
			return Connector{}, fmt.Errorf(`"name": %w`, err)
		}
	}
	return c, nil
}

// Minimal returns the properties that the broker needs to see: if the
// configuration has secret.manager properties, those and the configs that they
// list, else all of it. What is no secret reference stays at home.
func (c Connector) Minimal() map[string]string {
	needed := make(map[string]string)
	for name, value := range c.Configs {
		if strings.HasPrefix(name, "secret.manager") {
			needed[name] = value
		}
	}
	if len(needed) == 0 {
		return c.Configs
	}
	for name := range strings.SplitSeq(c.Configs["secret.manager.managed.configs"], ",") {
		name = strings.TrimSpace(name)
		if value, ok := c.Configs[name]; ok {
			needed[name] = value
		}
	}
	return needed
}

// IntegrationID returns the integration that the configuration names itself, or
// nothing.
func (c Connector) IntegrationID() string {
	return c.Configs["secret.manager.provider.integration.id"]
}

// object decodes a JSON object whose keys are all different.
func object(data []byte) (map[string]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("expected a JSON object")
	}
	members := make(map[string]json.RawMessage)
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, syntaxError(data, dec.InputOffset())
		}
		key, _ := t.(string)
		if _, ok := members[key]; ok {
			return nil, fmt.Errorf("the property %q stands twice", key)
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, syntaxError(data, dec.InputOffset())
		}
		members[key] = value
	}
	if _, err := dec.Token(); err != nil {
		return nil, syntaxError(data, dec.InputOffset())
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more after the JSON object")
	}
	return members, nil
}

// syntaxError says where the JSON breaks. encoding/json's own text is not used:
// it may quote what stands there.
func syntaxError(data []byte, offset int64) error {
	line := 1 + bytes.Count(data[:min(int(offset), len(data))], []byte("\n"))
	return fmt.Errorf("not valid JSON, at or after line %d (a comma too many or missing?)", line)
}

func texts(members map[string]json.RawMessage) (map[string]string, error) {
	m := make(map[string]string, len(members))
	for key, raw := range members {
		s, err := text(raw)
		if err != nil {
			return nil, fmt.Errorf("the property %q: %w", key, err)
		}
		m[key] = s
	}
	return m, nil
}

func text(raw json.RawMessage) (string, error) {
	switch {
	case raw[0] == '"':
		var s string
		if err := json.Unmarshal(raw, &s); err != nil {
			return "", errors.New("not a valid JSON string")
		}
		return s, nil
	case raw[0] == '{' || raw[0] == '[' || raw[0] == 'n':
		return "", errors.New("expected text, a number or a boolean")
	default:
		return string(raw), nil
	}
}
