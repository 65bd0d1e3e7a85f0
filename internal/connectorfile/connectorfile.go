// Package connectorfile reads connector configurations as people keep them: the
// JSON of Kafka Connect's and Confluent's REST calls and CLI, with the
// properties flat or under "config", and the .properties files of Kafka
// Connect's standalone mode.
//
// It knows file formats only. What a configuration means is decided by the
// broker.
package connectorfile

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
)

// MaxSize bounds a file, in bytes: far above any connector's configuration.
const MaxSize = 1 << 20

// Connector is what a file says.
type Connector struct {
	// Name is the connector's name, empty if the file does not say.
	Name string
	// Configs are the connector's properties.
	Configs map[string]string
	// Lines is the line of the file of each of them, counted from 1.
	Lines map[string]int
}

// Error is what is wrong with a file. It may name a property and never quotes a
// value.
type Error struct {
	// Line is the line of the fault, counted from 1; zero if it has none.
	Line int
	Text string
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return e.Text
	}
	return fmt.Sprintf("line %d: %s", e.Line, e.Text)
}

func faultf(line int, format string, args ...any) *Error {
	return &Error{Line: line, Text: fmt.Sprintf(format, args...)}
}

// Parse reads a connector's configuration. The file's name decides how:
// .properties and .json are what they say, anything else is JSON if it begins
// like it. The error is an *Error.
func Parse(name string, data []byte) (Connector, error) {
	if len(data) > MaxSize {
		return Connector{}, faultf(0, "the file has %d bytes, the most is %d", len(data), MaxSize)
	}
	likeJSON := bytes.HasPrefix(bytes.TrimLeft(data, " \t\r\n"), []byte("{"))
	switch strings.ToLower(filepath.Ext(name)) {
	case ".json":
		return parseJSON(data)
	case ".properties":
		if likeJSON { // each line would pass for a property, and be sent as one
			return Connector{}, faultf(1, "this is JSON; give the file a name that ends with .json")
		}
		return parseProperties(data)
	}
	if likeJSON {
		return parseJSON(data)
	}
	return parseProperties(data)
}

// Minimal returns the properties that the broker needs to see: if the
// configuration has secret.manager properties, those and the configs that they
// list, else all of it. What is no secret reference stays at home.
func (c Connector) Minimal() map[string]string {
	needed := make(map[string]string)
	for name, value := range c.Configs {
		// Exactly what the broker takes for one of these properties: a name that
		// merely begins alike must not keep the others at home.
		if name == "secret.manager" || strings.HasPrefix(name, "secret.manager.") {
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

// Line returns the line where a person starts to fix a config:
// its own or, if the file does not have it, that of the secret.manager property
// that asks for it. It is zero if the file has none of them.
func (c Connector) Line(config string) int {
	for _, name := range []string{config, "secret.manager.managed.configs", "secret.manager.enabled", "secret.manager"} {
		if line, ok := c.Lines[name]; ok {
			return line
		}
	}
	return 0
}
