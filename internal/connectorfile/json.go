package connectorfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"unicode/utf8"
)

// member is a member of an object, as written in the file.
type member struct {
	line  int // line of the key
	value json.RawMessage
	// valueLine is the line on which the value begins.
	valueLine int
}

// parseJSON parses an object, whose properties may be under "config". Numbers and
// booleans keep the text with which they are written.
func parseJSON(data []byte) (Connector, error) {
	if err := checkJSON(data); err != nil {
		return Connector{}, err
	}
	top, err := object(data, 1)
	if err != nil {
		return Connector{}, err
	}
	properties := top
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

// checkJSON checks that data is one JSON object. It does not use the error texts of
// encoding/json, because they may quote the file.
func checkJSON(data []byte) error {
	if !utf8.Valid(data) {
		return faultf(0, "the file is not valid UTF-8")
	}
	if !bytes.HasPrefix(bytes.TrimLeft(data, " \t\r\n"), []byte("{")) {
		return faultf(1, "expected a JSON object")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(new(json.RawMessage)); err != nil {
		at := len(data)
		if se, ok := errors.AsType[*json.SyntaxError](err); ok {
			at = min(int(se.Offset), len(data))
		}
		return faultf(lineAt(data, at), "not valid JSON, here or just before (an extra or missing comma?)")
	}
	rest := bytes.TrimLeft(data[dec.InputOffset():], " \t\r\n")
	if len(rest) > 0 {
		return faultf(lineAt(data, len(data)-len(rest)), "unexpected text after the JSON object")
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
		m := member{line: lineOf(int(dec.InputOffset()))}
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
