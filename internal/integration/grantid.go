package integration

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"slices"
	"strconv"

	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// GrantIDSyntax describes the ids that a grant can be given, for messages.
const GrantIDSyntax = "1 to 64 lower-case letters, digits, dots, underscores and hyphens, with a letter or digit at both ends"

var (
	validGrantID   = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$`)
	derivedGrantID = regexp.MustCompile(`^[0-9a-f]{32}$`)
)

// GrantID returns the id of the grant: its ID, or the derived id if it has none.
func (g *GrantSection) GrantID() string {
	if g.ID != "" {
		return g.ID
	}
	return g.DerivedID()
}

// DerivedID returns the id of a grant with these lists that is given none; see the package
// comment. It ignores ID.
func (g *GrantSection) DerivedID() string {
	b := make([]byte, 0, 512)
	b = append(b, "secretbroker grant v1\n"...)
	for _, list := range [][]string{g.Principals, g.Stores, g.Secrets, g.Keys} {
		list = slices.Compact(slices.Sorted(slices.Values(list)))
		b = append(strconv.AppendInt(b, int64(len(list)), 10), '\n')
		for _, s := range list {
			b = append(strconv.AppendInt(b, int64(len(s)), 10), ':')
			b = append(b, s...)
		}
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

// WithoutDerivedID returns the grant without its ID if that is the derived one, as answers
// of the broker contain it. A document does not state a derived id: it would no longer be
// valid after a change of the lists.
func (g GrantSection) WithoutDerivedID() GrantSection {
	if g.ID != "" && g.ID == g.DerivedID() {
		g.ID = ""
	}
	return g
}

// Equal reports whether two grants allow the same; their ids, the order of their lists and
// repetitions in them are ignored.
func (g GrantSection) Equal(other GrantSection) bool { return g.DerivedID() == other.DerivedID() }

// grantIDs returns the ids of the grants and reports those that are not valid or not unique.
func (p *Parser) grantIDs(grants []GrantSection) []string {
	ids := make([]string, len(grants))
	at := make(map[string]int, len(grants))
	for i := range grants {
		g := &grants[i]
		path := strictyaml.Index("grants", i)
		switch {
		case !p.Has(path + ".id"):
		case !validGrantID.MatchString(g.ID):
			p.Fault(path+".id", "expected %s", GrantIDSyntax)
		case derivedGrantID.MatchString(g.ID) && g.ID != g.DerivedID():
			p.Fault(path+".id", "32 hexadecimal digits are the id of a grant without a name, and these belong to other lists; remove the id, or choose a name")
		}
		ids[i] = g.GrantID()
		first, taken := at[ids[i]]
		switch {
		case !taken:
			at[ids[i]] = i
		case g.ID != "":
			p.Fault(path+".id", "%s has this id, too; the ids of an integration's grants must differ", strictyaml.Index("grants", first))
		default:
			p.Fault(path, "the same as %s; remove one of them", strictyaml.Index("grants", first))
		}
	}
	return ids
}
