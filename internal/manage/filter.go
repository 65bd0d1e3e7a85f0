package manage

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// filter is a parsed ListOptions.Filter. An integration must match all of its terms.
type filter []term

type term struct {
	field string // a field or a word of the grammar
	value string // of a field; may end with "*"
	not   bool
}

// maxFilter limits the length of a filter, in bytes.
const maxFilter = 1024

// grammar is what the terms of a filter can be.
type grammar struct {
	fields, words []string
	// check returns an error if a field cannot have the value; nil allows all values.
	check    func(field, value string) error
	expected string // lists the fields and words
}

var integrationGrammar = grammar{
	fields: []string{"id", "kind", "display_name"}, words: []string{"unused", "read_only", "faulty"},
	check: func(field, value string) error {
		if field == "kind" && !strings.HasSuffix(value, "*") && !secret.Kind(value).Known() {
			return fmt.Errorf("kind: no such kind; expected one of %v, or the beginning of one with *", secret.Kinds())
		}
		return nil
	},
	expected: "expected id, kind or display_name with = or != and a value, or unused, read_only or faulty",
}

// parseFilter parses a filter of integrations.
func parseFilter(s string) (filter, error) { return integrationGrammar.parse(s) }

// parse parses terms joined by AND: FIELD = VALUE, FIELD != VALUE, a word, or NOT and a word.
func (g *grammar) parse(s string) (filter, error) {
	if len(s) > maxFilter {
		return nil, fmt.Errorf("longer than %d bytes", maxFilter)
	}
	tokens, err := tokensOf(s)
	if err != nil || len(tokens) == 0 {
		return nil, err
	}
	var f filter
	for i := 0; ; {
		t, n, err := g.parseTerm(tokens[i:])
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

func (g *grammar) parseTerm(tokens []token) (t term, n int, err error) {
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
	switch {
	case slices.Contains(g.words, first.text):
		t.field = first.text
		return t, n + 1, nil
	case slices.Contains(g.fields, first.text):
		op, value := at(n+1), at(n+2)
		if op.quoted || op.text != "=" && op.text != "!=" || value == (token{}) {
			return t, 0, fmt.Errorf("%s: expected = or != and a value", first.text)
		}
		if g.check != nil {
			if err := g.check(first.text, value.text); err != nil {
				return t, 0, err
			}
		}
		t.field, t.value = first.text, value.text
		t.not = t.not != (op.text == "!=")
		return t, n + 3, nil
	default:
		return t, 0, errors.New(g.expected)
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
