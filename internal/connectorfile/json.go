package connectorfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"unicode/utf8"
)

// member is a member of an object, as written in the file.
type member struct {
	index int // place in the object
	line  int // line of the key
	value json.RawMessage
	// valueLine is the line on which the value begins.
	valueLine int
}

// parseJSON parses one configuration, a list of configurations, or the answer of
// GET /connectors?expand=info.
func parseJSON(data []byte) ([]Connector, error) {
	if err := checkJSON(data); err != nil {
		return nil, err
	}
	trimmed := bytes.TrimLeft(data, " \t\r\n")
	first := lineAt(data, len(data)-len(trimmed))
	if trimmed[0] == '[' {
		return connectorsOfList(trimmed, first)
	}
	top, err := object(trimmed, first)
	if err != nil {
		return nil, err
	}
	if expanded(top) {
		return connectorsOfExport(top)
	}
	return oneConnector(connectorOf(top))
}

// connectorsOfList parses a list of configurations.
func connectorsOfList(data []byte, line int) ([]Connector, error) {
	elements, err := list(data, line)
	if err != nil {
		return nil, err
	}
	connectors := make([]Connector, 0, len(elements))
	for _, m := range elements {
		if m.value[0] != '{' {
			return nil, faultf(m.valueLine, "expected a list of connector configurations; get one from Kafka Connect with GET /connectors?expand=info")
		}
		top, err := object(m.value, m.valueLine)
		if err != nil {
			return nil, err
		}
		c, err := connectorOf(top)
		if err != nil {
			return nil, err
		}
		connectors = append(connectors, c)
	}
	if len(connectors) == 0 {
		return nil, faultf(line, "the list has no connector")
	}
	return connectors, nil
}

// expanded reports whether an object is an answer of GET /connectors?expand=...: its members
// are connectors, each an object with "info" or "status".
func expanded(top map[string]member) bool {
	if len(top) == 0 {
		return false
	}
	for _, m := range top {
		if m.value[0] != '{' {
			return false
		}
		inner, err := object(m.value, m.valueLine)
		if err != nil {
			return false
		}
		_, info := inner["info"]
		_, status := inner["status"]
		if !info && !status {
			return false
		}
	}
	return true
}

// connectorsOfExport parses an answer of GET /connectors?expand=info.
func connectorsOfExport(top map[string]member) ([]Connector, error) {
	connectors := make([]Connector, 0, len(top))
	for _, name := range slices.Sorted(maps.Keys(top)) {
		inner, err := object(top[name].value, top[name].valueLine)
		if err != nil {
			return nil, err
		}
		info, ok := inner["info"]
		if !ok || info.value[0] != '{' {
			return nil, faultf(top[name].line, "the connector has no configuration; export the connectors with GET /connectors?expand=info")
		}
		properties, err := object(info.value, info.valueLine)
		if err != nil {
			return nil, err
		}
		c, err := connectorOf(properties)
		if err != nil {
			return nil, err
		}
		connectors = append(connectors, c)
	}
	return connectors, nil
}

// connectorOf returns the connector of an object, whose properties may be under "config".
// Numbers and booleans keep the text with which they are written.
func connectorOf(top map[string]member) (Connector, error) {
	properties, err := top, error(nil)
	if nested, ok := top["config"]; ok {
		if nested.value[0] != '{' {
			return Connector{}, faultf(nested.line, `under "config": expected a JSON object`)
		}
		if properties, err = object(nested.value, nested.valueLine); err != nil {
			return Connector{}, err
		}
	}
	c := Connector{Configs: make(map[string]string, len(properties)), Lines: make(map[string]int, len(properties))}
	for name, m := range properties {
		if c.Configs[name], err = text(name, m); err != nil {
			return Connector{}, err
		}
		c.Lines[name] = m.line
	}
	c.Name = c.Configs["name"]
	if m, ok := top["name"]; ok {
		if c.Name, err = text("name", m); err != nil {
			return Connector{}, err
		}
	}
	return c, nil
}

// checkJSON checks that data is one JSON object or list. It does not use the error texts of
// encoding/json, because they may quote the file.
func checkJSON(data []byte) error {
	if !utf8.Valid(data) {
		return faultf(0, "the file is not valid UTF-8")
	}
	if bytes.HasPrefix(data, []byte(byteOrderMark)) {
		return faultf(1, "the file begins with a byte order mark; save it as UTF-8 without one")
	}
	if text := bytes.TrimLeft(data, " \t\r\n"); len(text) == 0 || text[0] != '{' && text[0] != '[' {
		return faultf(1, "expected a JSON object")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(new(json.RawMessage)); err != nil {
		at := len(data)
		if se, ok := errors.AsType[*json.SyntaxError](err); ok {
			at = min(int(se.Offset), len(data))
		}
		return faultf(lineAt(data, at), "not valid JSON, here or just before (an extra or missing comma, or a comment?)")
	}
	rest := bytes.TrimLeft(data[dec.InputOffset():], " \t\r\n")
	if len(rest) > 0 {
		return faultf(lineAt(data, len(data)-len(rest)), "unexpected text after the JSON document")
	}
	return nil
}

func lineAt(data []byte, offset int) int {
	return 1 + bytes.Count(data[:offset], []byte("\n"))
}

// object returns the members of a JSON object that begins on the given line. Duplicate
// keys are an error.
func object(data []byte, line int) (map[string]member, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	counted := 0 // lines have been counted up to this offset
	lineOf := func(offset int) int {
		line += bytes.Count(data[counted:offset], []byte("\n"))
		counted = offset
		return line
	}
	if _, err := dec.Token(); err != nil { // the opening brace
		return nil, faultf(line, "not valid JSON")
	}
	members := make(map[string]member)
	for dec.More() {
		token, err := dec.Token()
		key, ok := token.(string)
		m := member{index: len(members), line: lineOf(int(dec.InputOffset()))}
		if err != nil || !ok {
			return nil, faultf(m.line, "not valid JSON")
		}
		if before, ok := members[key]; ok {
			return nil, faultf(m.line, "the property %q occurs twice, first on line %d", key, before.line)
		}
		if err := dec.Decode(&m.value); err != nil {
			return nil, faultf(m.line, "not valid JSON")
		}
		m.valueLine = lineOf(int(dec.InputOffset()) - len(m.value))
		members[key] = m
	}
	return members, nil
}

// list returns the elements of a JSON list that begins on the given line.
func list(data []byte, line int) ([]member, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	if _, err := dec.Token(); err != nil { // the opening bracket
		return nil, faultf(line, "not valid JSON")
	}
	var elements []member
	for dec.More() {
		var m member
		if err := dec.Decode(&m.value); err != nil {
			return nil, faultf(line, "not valid JSON")
		}
		m.valueLine = line + bytes.Count(data[:int(dec.InputOffset())-len(m.value)], []byte("\n"))
		m.line = m.valueLine
		elements = append(elements, m)
	}
	return elements, nil
}

// text returns a property's value as text.
func text(name string, m member) (string, error) {
	switch m.value[0] {
	case '"':
		var s string
		if err := json.Unmarshal(m.value, &s); err != nil {
			return "", faultf(m.line, "the property %q: not a valid JSON string", name)
		}
		return s, nil
	case '{', '[', 'n':
		return "", faultf(m.line, "the property %q: expected text, a number or a boolean", name)
	default:
		return string(m.value), nil
	}
}
