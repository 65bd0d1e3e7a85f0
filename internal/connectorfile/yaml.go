package connectorfile

import (
	"bytes"
	"errors"
	"io"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// The places of connector configurations in Kubernetes objects, by kind. Sources: Strimzi,
// "Custom resource API reference"; Confluent for Kubernetes, "Connector"; Aiven Operator,
// "KafkaConnector".
const (
	kindStrimziConnector = "KafkaConnector"
	kindStrimziMirror    = "KafkaMirrorMaker2"
	kindConfluent        = "Connector"
)

// parseYAML parses the connectors in all documents of a file. Kubernetes objects of other
// kinds are skipped.
func parseYAML(data []byte) ([]Connector, error) {
	var connectors []Connector
	skipped := 0
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var document yaml.Node
		err := dec.Decode(&document)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, faultf(max(1, strictyaml.ErrorLine(err)), "not valid YAML, here or soon after")
		}
		if len(document.Content) == 0 || document.Content[0].Kind == yaml.ScalarNode && document.Content[0].Value == "" {
			continue // an empty document
		}
		found, err := connectorsOfNode(document.Content[0])
		if err != nil {
			return nil, err
		}
		if found == nil {
			skipped++
		}
		connectors = append(connectors, found...)
	}
	if len(connectors) == 0 && skipped > 0 {
		return nil, faultf(1, "the file has no connector: expected an object of the kind %s, %s or %s",
			kindStrimziConnector, kindConfluent, kindStrimziMirror)
	}
	if len(connectors) == 0 {
		return nil, faultf(1, "the file is empty")
	}
	return connectors, nil
}

// connectorsOfNode returns the connectors of a document, none for another object of
// Kubernetes.
func connectorsOfNode(n *yaml.Node) ([]Connector, error) {
	if n.Kind == yaml.SequenceNode {
		return connectorsOfSequence(n)
	}
	top, err := mapping(n)
	if err != nil {
		return nil, err
	}
	kind, apiVersion := top["kind"].text(), top["apiVersion"].text()
	switch {
	case kind == "" || apiVersion == "":
		config := top
		if nested, ok := top["config"]; ok {
			if config, err = mapping(nested.value); err != nil {
				return nil, err
			}
		}
		return connectors(top["name"].text(), config)
	case kind == "List":
		return connectorsOfSequence(top["items"].value)
	case kind == kindStrimziConnector && strings.HasPrefix(apiVersion, "aiven.io/"):
		return connectorsAt(top, "userConfig")
	case kind == kindStrimziConnector && strings.HasPrefix(apiVersion, "kafka.strimzi.io/"):
		return connectorsAt(top, "config")
	case kind == kindStrimziConnector:
		// Its properties may be anywhere, and must not count as absent.
		return nil, faultf(top["apiVersion"].line, "the API group of this %s is not supported: expected kafka.strimzi.io or aiven.io; save its properties as JSON", kind)
	case kind == kindConfluent && strings.HasPrefix(apiVersion, "platform.confluent.io/"):
		return connectorsAt(top, "configs")
	case kind == kindStrimziMirror:
		return connectorsOfMirrors(top)
	}
	return nil, nil
}

func connectorsOfSequence(n *yaml.Node) ([]Connector, error) {
	if n == nil || n.Kind != yaml.SequenceNode {
		return nil, nil
	}
	var all []Connector
	for _, element := range n.Content {
		found, err := connectorsOfNode(element)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// connectorsAt returns the connector whose properties are at spec.NAME of an object.
func connectorsAt(top map[string]entry, name string) ([]Connector, error) {
	metadata, err := mapping(top["metadata"].value)
	if err != nil {
		return nil, err
	}
	spec, err := mapping(top["spec"].value)
	if err != nil {
		return nil, err
	}
	config, err := mapping(spec[name].value)
	if err != nil {
		return nil, err
	}
	called := metadata["name"].text()
	if given := spec["name"].text(); given != "" {
		called = given
	}
	return connectors(called, config)
}

// connectorsOfMirrors returns the connectors of a KafkaMirrorMaker2.
func connectorsOfMirrors(top map[string]entry) ([]Connector, error) {
	spec, err := mapping(top["spec"].value)
	if err != nil {
		return nil, err
	}
	all := []Connector{}
	mirrors := spec["mirrors"].value
	if mirrors == nil || mirrors.Kind != yaml.SequenceNode {
		return all, nil
	}
	for _, mirror := range mirrors.Content {
		of, err := mapping(mirror)
		if err != nil {
			return nil, err
		}
		for _, part := range []string{"sourceConnector", "checkpointConnector", "heartbeatConnector"} {
			if of[part].value == nil {
				continue
			}
			connector, err := mapping(of[part].value)
			if err != nil {
				return nil, err
			}
			config, err := mapping(connector["config"].value)
			if err != nil {
				return nil, err
			}
			found, err := connectors(part, config)
			if err != nil {
				return nil, err
			}
			all = append(all, found...)
		}
	}
	return all, nil
}

// connectors returns one connector with the given properties.
func connectors(name string, properties map[string]entry) ([]Connector, error) {
	c := Connector{Name: name, Configs: make(map[string]string, len(properties)), Lines: make(map[string]int, len(properties))}
	for key, e := range properties {
		if e.value.Kind != yaml.ScalarNode || e.value.ShortTag() == "!!null" {
			return nil, faultf(e.line, "the property %q: expected text, a number or a boolean", key)
		}
		c.Configs[key], c.Lines[key] = e.value.Value, e.line
	}
	if c.Name == "" {
		c.Name = c.Configs["name"]
	}
	return []Connector{c}, nil
}

// entry is an entry of a mapping. The zero entry is an absent one.
type entry struct {
	line  int // line of the key
	value *yaml.Node
}

// text returns the text of a scalar, "" for anything else.
func (e entry) text() string {
	if e.value == nil || e.value.Kind != yaml.ScalarNode {
		return ""
	}
	return e.value.Value
}

// mapping returns the entries of a mapping, none if n is nil. Aliases and merged keys are
// errors: what they expand to has no line of its own.
func mapping(n *yaml.Node) (map[string]entry, error) {
	if n == nil || n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		return nil, nil
	}
	if n.Kind == yaml.AliasNode {
		return nil, faultf(n.Line, `aliases ("*...") are not supported; write the values out`)
	}
	if n.Kind != yaml.MappingNode {
		return nil, faultf(n.Line, "expected properties (name: value)")
	}
	entries := make(map[string]entry, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		switch {
		case key.Kind != yaml.ScalarNode:
			return nil, faultf(key.Line, "expected the name of a property")
		case key.ShortTag() == "!!merge" || value.Kind == yaml.AliasNode:
			return nil, faultf(key.Line, `aliases ("*...") are not supported; write the values out`)
		}
		if first, ok := entries[key.Value]; ok {
			return nil, faultf(key.Line, "the property %q occurs twice, first on line %d", key.Value, first.line)
		}
		entries[key.Value] = entry{line: key.Line, value: value}
	}
	return entries, nil
}
