package manage

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const notListed = "the store is not one of the integration's"

// inWords describes e for an operator: what allows the read of ref, or what would have to
// change.
func inWords(grants []authz.Grant, e authz.Explanation, ref secret.Ref) string {
	if e.Decision.Effect == authz.Allowed {
		i := e.Decision.Grant
		return fmt.Sprintf("grant %s allows it for %s", grants[i].ID, e.Grants[i].Principal)
	}
	var naming []int // the grants that name the principal
	for i, m := range e.Grants {
		if m.Principal != "" {
			naming = append(naming, i)
		}
	}
	// List the grants that match best first.
	slices.SortStableFunc(naming, func(a, b int) int { return cmp.Compare(lacks(e.Grants[a]), lacks(e.Grants[b])) })

	var parts []string
	switch {
	case len(grants) == 0:
		parts = append(parts, "the integration has no grants, so no principal may use it")
	case len(naming) == 0:
		parts = append(parts, "no grant names this principal")
	}
	for n, i := range naming {
		if n == maxListed {
			parts = append(parts, fmt.Sprintf("%d more grants name the principal but do not allow it either", len(naming)-maxListed))
			break
		}
		parts = append(parts, grantInWords(grants[i], e.Grants[i], ref))
	}
	if !e.StoreListed && e.Decision.Effect == authz.Denied {
		parts = append(parts, notListed)
	}
	return strings.Join(parts, "; ")
}

// lacks returns the number of parts of a grant that do not match.
func lacks(m authz.Match) int {
	n := 0
	for _, fits := range []bool{m.Store, m.Secret, m.Key} {
		if !fits {
			n++
		}
	}
	return n
}

// grantInWords describes why a grant that names the principal does not allow ref.
func grantInWords(g authz.Grant, m authz.Match, ref secret.Ref) string {
	var only []string
	if !m.Store {
		only = append(only, "stores "+listed(g.Stores))
	}
	if !m.Secret {
		only = append(only, "secrets "+listed(g.Secrets))
	}
	if !m.Key && ref.Key != "" {
		only = append(only, "JSON keys "+listed(g.Keys))
	}
	wholeSecret := !m.Key && ref.Key == ""
	switch {
	case len(only) > 0 && wholeSecret:
		return fmt.Sprintf("grant %s names the principal but allows only %s, and of those only single JSON keys, but the reference asks for the whole secret", g.ID, strings.Join(only, " and "))
	case len(only) > 0:
		return fmt.Sprintf("grant %s names the principal but allows only %s", g.ID, strings.Join(only, " and "))
	case wholeSecret:
		return fmt.Sprintf("grant %s allows only single JSON keys (%s), but the reference asks for the whole secret", g.ID, listed(g.Keys))
	default:
		return fmt.Sprintf("grant %s would allow it, but %s", g.ID, notListed)
	}
}

// quoted returns s, quoted if it could be misread.
func quoted(s string) string {
	if s == "" || strings.ContainsFunc(s, func(r rune) bool {
		return !unicode.IsPrint(r) || unicode.IsSpace(r) || strings.ContainsRune(`,;()"`, r)
	}) {
		return strconv.Quote(s)
	}
	return s
}
