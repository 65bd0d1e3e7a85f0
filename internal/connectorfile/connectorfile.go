// Package connectorfile parses files with connector configurations: the JSON of Kafka
// Connect's and Confluent's REST APIs and CLIs, with the properties at the top level or
// under "config", and the .properties files of Kafka Connect's standalone mode.
//
// It knows file formats only. The broker interprets the configuration.
package connectorfile

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
)

// MaxSize is the maximum size of a file in bytes, far more than any connector needs.
const MaxSize = 1 << 20

// Connector is the contents of a file.
type Connector struct {
	// Name is the connector's name, empty if the file has none.
	Name string
	// Configs are the connector's properties.
	Configs map[string]string
	// Lines maps each property to its line in the file, counted from 1.
	Lines map[string]int
}

// Error is an error in a file. It may name a property, but never quotes a value.
type Error struct {
	// Line is the line of the error, counted from 1; zero if there is none.
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

// Parse parses a connector's configuration. The extension of the file's name, .json or
// .properties, determines the format. A file with another extension is parsed as JSON if
// it begins with a brace. The error is an *Error.
func Parse(name string, data []byte) (Connector, error) {
	if len(data) > MaxSize {
		return Connector{}, faultf(0, "the file has %d bytes; the maximum is %d", len(data), MaxSize)
	}
	likeJSON := bytes.HasPrefix(bytes.TrimLeft(data, " \t\r\n"), []byte("{"))
	switch strings.ToLower(filepath.Ext(name)) {
	case ".json":
		return parseJSON(data)
	case ".properties":
		if likeJSON { // each line would be a valid property
			return Connector{}, faultf(1, "this is JSON; give the file a name that ends with .json")
		}
		return parseProperties(data)
	}
	if likeJSON {
		return parseJSON(data)
	}
	return parseProperties(data)
}

// Minimal returns the properties that the broker needs: if the configuration has
// secret.manager properties, these and the configs that they list, and otherwise all
// properties. Other properties may be confidential, and are not sent.
func (c Connector) Minimal() map[string]string {
	needed := make(map[string]string)
	for name, value := range c.Configs {
		// The broker uses the same condition. With a looser one, a property with a
		// similar name would make this function drop properties that the broker needs.
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

// IntegrationID returns the integration that the configuration names, or "".
func (c Connector) IntegrationID() string {
	return c.Configs["secret.manager.provider.integration.id"]
}

// Line returns the line at which a user should fix a config: the config's own line or,
// if the file does not contain it, that of the secret.manager property that refers to
// it. It returns zero if the file contains none of these.
func (c Connector) Line(config string) int {
	for _, name := range []string{config, "secret.manager.managed.configs", "secret.manager.enabled", "secret.manager"} {
		if line, ok := c.Lines[name]; ok {
			return line
		}
	}
	return 0
}
