package authz

import (
	"fmt"
	"slices"
)

// Principals is a set of principals, defined by patterns as in a Grant. It is
// immutable and safe for concurrent use. A nil or empty set contains no principal.
type Principals struct {
	patterns []string
}

// NewPrincipals returns the set of principals that match at least one of the
// patterns.
func NewPrincipals(patterns []string) (*Principals, error) {
	for i, pattern := range patterns {
		if fault := CheckPrincipalPattern(pattern); fault != "" {
			return nil, fmt.Errorf("entry %d: %s", i+1, fault)
		}
	}
	return &Principals{patterns: patterns}, nil
}

// Contains reports whether who is in the set. It compares who with one pattern after
// another, which is fast enough because these sets are small.
func (s *Principals) Contains(who Principal) bool {
	return s != nil && who != "" && slices.ContainsFunc(s.patterns, func(pattern string) bool {
		return matchesPrincipal(pattern, who)
	})
}
