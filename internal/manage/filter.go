package manage

import (
	"fmt"
	"strings"

	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// filter is a parsed ListOptions.Filter. An integration must match all of its terms.
type filter []term

type term struct {
	field string // id, kind or display_name; or a word
	value string // of a field; may end with "*"
	not   bool
}

// maxFilter limits the length of a filter, in bytes.
const maxFilter = 1024

// parseFilter parses terms joined by AND: FIELD = VALUE, FIELD != VALUE, a word, or NOT and
// a word.
func parseFilter(s string) (filter, error) {
	if len(s) > maxFilter {
		return nil, fmt.Errorf("longer than %d bytes", maxFilter)
	}
	tokens, err := tokensOf(s)
	if err != nil || len(tokens) == 0 {
		return nil, err
	}
	var f filter
	for i := 0; ; {
		t, n, err := parseTerm(tokens[i:])
		if err != nil {
			return nil, err
		}
		f = append(f, t)
		if i += n; i == len(tokens) {
			return f, nil
		}
		if tokens[i].quoted || tokens[i].text != "AND" || i+1 == len(tokens) {
			return nil, fmt.Errorf(`expected AND and another term after the first %d`, len(f))
		}
		i++
	}
}

func parseTerm(tokens []token) (t term, n int, err error) {
	at := func(i int) token {
		if i < len(tokens) {
			return tokens[i]
		}
		return token{}
	}
	first := at(0)
	if first.text == "NOT" && !first.quoted {
		t.not, n = true, 1
		first = at(1)
	}
	switch first.text {
	case "unused", "read_only", "faulty":
		t.field = first.text
		return t, n + 1, nil
	case "id", "kind", "display_name":
		op, value := at(n+1), at(n+2)
		if op.quoted || op.text != "=" && op.text != "!=" || value == (token{}) {
			return t, 0, fmt.Errorf("%s: expected = or != and a value", first.text)
		}
		if first.text == "kind" && !strings.HasSuffix(value.text, "*") && !secret.Kind(value.text).Known() {
			return t, 0, fmt.Errorf("kind: no such kind; expected one of %v, or the beginning of one with *", secret.Kinds())
		}
		t.field, t.value = first.text, value.text
		t.not = t.not != (op.text == "!=")
		return t, n + 3, nil
	default:
		return t, 0, fmt.Errorf("expected id, kind or display_name with = or != and a value, or unused, read_only or faulty")
	}
}

type token struct {
	text   string
	quoted bool
}

func tokensOf(s string) ([]token, error) {
	var tokens []token
	for {
		s = strings.TrimLeft(s, " \t")
		switch {
		case s == "":
			return tokens, nil
		case s[0] == '"':
			end := strings.IndexByte(s[1:], '"')
			if end < 0 {
				return nil, fmt.Errorf("a quote is missing its end")
			}
			tokens = append(tokens, token{s[1 : end+1], true})
			s = s[end+2:]
		case s[0] == '=':
			tokens = append(tokens, token{text: "="})
			s = s[1:]
		case strings.HasPrefix(s, "!="):
			tokens = append(tokens, token{text: "!="})
			s = s[2:]
		default:
			end := strings.IndexAny(s, " \t=!\"")
			if end < 0 {
				end = len(s)
			}
			if end == 0 {
				return nil, fmt.Errorf("unexpected %q", s[:1])
			}
			tokens = append(tokens, token{text: s[:end]})
			s = s[end:]
		}
	}
}

// summary has the fields of an integration that a filter can use.
type summary struct {
	id, displayName  string
	kind             secret.Kind
	readOnly, faulty bool
}

// summary returns the summary of a record. It parses the document only if that is invalid.
func (s *Service) summary(rec *registry.Record) summary {
	sum := summary{id: rec.ID, readOnly: rec.File != "", faulty: len(s.problems(rec)) > 0}
	if in := rec.Integration; in != nil {
		sum.kind, sum.displayName = in.Kind, in.DisplayName
	} else {
		doc := s.cfg.Kinds.DecodeDocument(rec.ID, rec.Document).Document
		sum.kind, sum.displayName = doc.Kind, doc.DisplayName
	}
	return sum
}

// match reports whether the integration matches every term. unused: it was not used within
// the window.
func (f filter) match(in summary, unused bool) bool {
	for _, t := range f {
		var holds bool
		switch t.field {
		case "id":
			holds = matchText(t.value, in.id)
		case "kind":
			holds = matchText(t.value, string(in.kind))
		case "display_name":
			holds = matchText(t.value, in.displayName)
		case "unused":
			holds = unused
		case "read_only":
			holds = in.readOnly
		case "faulty":
			holds = in.faulty
		}
		if holds == t.not {
			return false
		}
	}
	return true
}

func matchText(pattern, s string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(s, prefix)
	}
	return s == pattern
}
