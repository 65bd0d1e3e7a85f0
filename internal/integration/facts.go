package integration

import (
	"slices"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// Fact is one piece of information that a person needs to set up an integration at its
// stores. A Value of more than one line is a document to paste.
type Fact struct {
	// ID identifies the fact for programs, such as "AWS_EXTERNAL_ID". It is never renamed, and
	// listed in provider/kinds/testdata/facts.txt.
	ID string
	// Name is for people.
	Name  string
	Value string
}

// Facts are the facts about one integration.
type Facts []Fact

// Add adds a fact unless its value is empty.
func (f *Facts) Add(id, name, value string) {
	if value != "" {
		*f = append(*f, Fact{id, name, value})
	}
}

// AddAll adds a fact for each value, sorted.
func (f *Facts) AddAll(id, name string, values []string) {
	for _, v := range slices.Sorted(slices.Values(values)) {
		f.Add(id, name, v)
	}
}

// Facts returns the facts about the integration.
func (in *Integration) Facts() Facts {
	var f Facts
	f.Add("CLOUD", "Cloud", in.Placement.Cloud)
	f.Add("REGION", "Region", in.Placement.Region)
	if in.Settings != nil {
		f = append(f, in.Settings.Facts()...)
	}
	return f
}

// CloudPolicy is a policy document that an integration requires at its cloud, or the commands
// that create it, for pasting.
type CloudPolicy struct {
	// ID is that of the document's Fact.
	ID string
	// Title states the purpose of the document and where to paste it.
	Title string
	// JSON is indented, or has one command on each line. It contains no secret. Capitalized words in angle brackets are
	// placeholders.
	JSON string
}

// Policied is implemented by Settings whose stores need policies.
type Policied interface {
	// CloudPolicies returns the policies that permit the integration to read what the
	// grants permit, and no more.
	CloudPolicies(grants *authz.Policy) []CloudPolicy
}

// CloudPolicies returns the policies that the integration needs at its cloud, if its
// kind has any. They grow with the grants.
func (in *Integration) CloudPolicies() []CloudPolicy {
	if s, ok := in.Settings.(Policied); ok {
		return s.CloudPolicies(in.Policy)
	}
	return nil
}

// ParseDuration parses a duration as documents have it: 30s, 1h30m, 90d.
func ParseDuration(s string) (time.Duration, error) { return strictyaml.ParseDuration(s) }

// FormatDuration formats a duration as documents do: 1h and not 1h0m0s, 90d and not 2160h.
func FormatDuration(d time.Duration) string { return strictyaml.FormatDuration(d) }
