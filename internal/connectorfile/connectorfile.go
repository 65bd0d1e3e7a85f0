// Package connectorfile parses files with connector configurations and finds Kafka's
// placeholders in them. It parses
//
//   - the JSON of Kafka Connect's and Confluent's REST APIs and CLIs, with the properties at
//     the top level or under "config", several of these in a list, and the answer of
//     GET /connectors?expand=info;
//   - the YAML of Strimzi (KafkaConnector, KafkaMirrorMaker2) and of Confluent for
//     Kubernetes (Connector), and YAML with the same shape as the JSON;
//   - the .properties files of Kafka Connect's standalone mode.
//
// It knows formats only. The broker interprets references.
package connectorfile

import (
	"bytes"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
)

// MaxSize is the maximum size of a file in bytes, far more than any connector needs.
const MaxSize = 1 << 20

// Connector is the configuration of one connector.
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

// Parse parses the connectors' configurations in a file. It returns at least one. The
// extension of the file's name, .json, .yaml, .yml or .properties, determines the format. A
// file with another extension is parsed as JSON if it begins with a brace or a bracket, as
// YAML if it begins like a Kubernetes object, and otherwise as properties. The error is an
// *Error.
func Parse(name string, data []byte) ([]Connector, error) {
	if len(data) > MaxSize {
		return nil, faultf(0, "the file is larger than 1 MiB, the maximum")
	}
	unmarked := bytes.TrimPrefix(data, []byte(byteOrderMark))
	text := bytes.TrimLeft(unmarked, " \t\r\n")
	likeJSON := bytes.HasPrefix(text, []byte("{")) || bytes.HasPrefix(text, []byte("["))
	switch strings.ToLower(filepath.Ext(name)) {
	case ".json":
		return parseJSON(unmarked)
	case ".yaml", ".yml":
		return parseYAML(data)
	case ".properties":
		switch {
		case likeJSON: // each line would be a valid property
			return nil, faultf(1, "the file contains JSON; give it a name that ends with .json")
		case likeKubernetes.Match(data):
			return nil, faultf(1, "the file contains YAML; give it a name that ends with .yaml")
		}
		return oneConnector(parseProperties(data))
	}
	switch {
	case likeJSON:
		return parseJSON(unmarked)
	case likeKubernetes.Match(data):
		return parseYAML(data)
	}
	return oneConnector(parseProperties(data))
}

// likeKubernetes matches files that begin like a Kubernetes object, after comments.
var likeKubernetes = regexp.MustCompile(`^(\s*#[^\n]*\n|\s*\n|---\s*\n)*(apiVersion|kind):\s`)

// byteOrderMark is what some Windows editors write at the beginning of a file in UTF-8.
// Kafka Connect ignores it in JSON, and not in .properties files.
const byteOrderMark = "\xef\xbb\xbf"

func oneConnector(c Connector, err error) ([]Connector, error) {
	if err != nil {
		return nil, err
	}
	return []Connector{c}, nil
}

// Managed returns the properties that the broker needs of a configuration with
// secret.manager properties: these and the configs that they list. Without secret.manager
// properties it is empty. Other properties may be confidential, and are not sent.
func (c Connector) Managed() map[string]string {
	needed := make(map[string]string)
	for name, value := range c.Configs {
		// The broker uses the same condition. With a looser one, a property with a
		// similar name would make this function drop properties that the broker needs.
		if name == "secret.manager" || strings.HasPrefix(name, "secret.manager.") {
			needed[name] = value
		}
	}
	if len(needed) == 0 {
		return nil
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
