package authz

import (
	"slices"
	"strings"
)

// patterns maps literal texts and prefixes (written with a trailing "*") to values of
// type T. A lookup accesses a map once for the literal and once for each distinct
// length of a prefix, regardless of the number of entries.
type patterns[T any] struct {
	literal map[string]T
	prefix  map[string]T
	lengths []int // distinct lengths of the prefixes, longest first
}

// update replaces the value of pattern by change(value). The value of a new pattern
// is zero.
func (p *patterns[T]) update(pattern string, change func(T) T) {
	text, isPrefix := strings.CutSuffix(pattern, "*")
	if !isPrefix {
		if p.literal == nil {
			p.literal = make(map[string]T)
		}
		p.literal[text] = change(p.literal[text])
		return
	}
	if p.prefix == nil {
		p.prefix = make(map[string]T)
	}
	p.prefix[text] = change(p.prefix[text])
	if !slices.Contains(p.lengths, len(text)) {
		p.lengths = append(p.lengths, len(text))
		slices.SortFunc(p.lengths, func(a, b int) int { return b - a })
	}
}

// match calls yield with the value of each pattern that matches s, the most specific
// first, until yield returns false. It reports whether yield returned false.
func (p *patterns[T]) match(s string, yield func(T) bool) (stopped bool) {
	if v, ok := p.literal[s]; ok && !yield(v) {
		return true
	}
	for _, n := range p.lengths {
		if n > len(s) {
			continue
		}
		if v, ok := p.prefix[s[:n]]; ok && !yield(v) {
			return true
		}
	}
	return false
}
