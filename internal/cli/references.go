package cli

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/connectorfile"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// defaultAliases are the names under which workers usually know the broker's config provider.
var defaultAliases = []string{"secretbroker", "broker"}

// referenceSet is the part of a connector's configuration that one call to the broker
// resolves: the references that belong to one integration.
type referenceSet struct {
	connector   string
	integration string
	// configs are what the call sends. It contains nothing but references and
	// secret.manager properties.
	configs map[string]string
	// line returns the line of a config in the file, zero if there is none.
	line func(config string) int
	// faults are references that are not sent, because they are malformed.
	faults []client.ConfigError
}

// sets returns the references in a connector's configuration, one set for each integration,
// sorted by integration; none if the configuration has no references. The references are
//
//   - with secret.manager properties, the configs that these list;
//   - the placeholders ${ALIAS:INTEGRATION:REFERENCE} in all properties, which may name the
//     connector as ${ALIAS:INTEGRATION/CONNECTOR:REFERENCE};
//   - without either, the values that are references, which belong to --integration.
//
// Everything else may be confidential and is not sent.
func (q *question) sets(c connectorfile.Connector) ([]referenceSet, error) {
	sets := q.placeholders(c)
	managed := c.Managed()
	integration := cmp.Or(q.integration, c.IntegrationID())
	switch {
	case len(managed) == 0 && len(sets) > 0:
		return sets, nil
	case len(managed) == 0:
		managed = q.plainReferences(c)
		if len(managed) == 0 {
			return nil, nil
		}
		if integration == "" {
			return nil, missingIntegration(c, fmt.Sprintf("%q is a reference, but --integration is missing and the configuration does not name an integration",
				slices.Min(slices.Collect(maps.Keys(managed)))), slices.Min(slices.Collect(maps.Keys(managed))))
		}
	case integration == "" && strings.EqualFold(managed["secret.manager.enabled"], "false"):
		return sets, nil // the broker would resolve nothing
	case integration == "":
		return nil, missingIntegration(c, "--integration is missing, and the configuration does not name an integration", "secret.manager")
	}
	if err := checkID("the integration's id", integration); err != nil {
		return nil, missingIntegration(c, err.Error(), "secret.manager.provider.integration.id")
	}
	own := referenceSet{connector: cmp.Or(q.connector, c.Name), integration: integration, configs: managed, line: c.Line}
	return append([]referenceSet{own}, sets...), nil
}

func missingIntegration(c connectorfile.Connector, text, config string) error {
	return &connectorfile.Error{Line: c.Line(config), Text: text}
}

// placeholders returns the references in placeholders. A malformed placeholder is a fault of
// the set of its integration, or of a set without an integration.
func (q *question) placeholders(c connectorfile.Connector) []referenceSet {
	byIntegration := make(map[string]*referenceSet)
	lines := make(map[string]int) // of the names that are used
	for _, p := range c.Placeholders(q.aliases...) {
		name := p.Property
		for i := 2; ; i++ { // further placeholders of a property
			if _, used := lines[name]; !used {
				break
			}
			name = fmt.Sprintf("%s[%d]", p.Property, i)
		}
		lines[name] = p.Line
		set := byIntegration[p.Integration]
		if set == nil {
			set = &referenceSet{
				connector: cmp.Or(q.connector, c.Name), integration: p.Integration, configs: make(map[string]string),
				line: func(config string) int { return lines[config] },
			}
			byIntegration[p.Integration] = set
		}
		if p.Fault == "" && p.Connector != "" && c.Name != "" && p.Connector != c.Name {
			p.Fault = "the placeholder names another connector than the configuration; write the connector's own name, or none"
		}
		if p.Fault != "" {
			set.faults = append(set.faults, client.ConfigError{Config: name, Reason: client.ReasonInvalidReference, Message: p.Fault})
			continue
		}
		set.configs[name] = p.Reference
	}
	sets := make([]referenceSet, 0, len(byIntegration))
	for _, integration := range slices.Sorted(maps.Keys(byIntegration)) {
		sets = append(sets, *byIntegration[integration])
	}
	return sets
}

// plainReferences returns the properties of a configuration without secret.manager
// properties and placeholders that are references. With --integration these are also values
// that seem to be meant as references; without it the configuration most likely has none.
func (q *question) plainReferences(c connectorfile.Connector) map[string]string {
	found := make(map[string]string)
	for name, value := range c.Configs {
		_, err := secret.ParseRef(value)
		meant := q.integration != "" && strings.Contains(value, "::") && !strings.Contains(value, "${")
		if err == nil || meant {
			found[name] = value
		}
	}
	return found
}

// request returns the call for a set.
func (q *question) request(s *referenceSet) client.ResolveRequest {
	req := client.ResolveRequest{IntegrationID: s.integration, Configs: s.configs, Connector: s.connector}
	if q.maxAgeGiven() {
		req.MaxAge = &q.maxAge
	}
	return req
}

// setOfArgs returns the references on the command line.
func (q *question) setOfArgs(args []string) (referenceSet, error) {
	configs, err := configsOfArgs(args)
	if err != nil {
		return referenceSet{}, err
	}
	if q.integration == "" {
		return referenceSet{}, errors.New("--integration is missing")
	}
	if err := checkID("--integration", q.integration); err != nil {
		return referenceSet{}, err
	}
	return referenceSet{connector: q.connector, integration: q.integration, configs: configs, line: func(string) int { return 0 }}, nil
}

// setToResolve returns the references on the command line or in a file. found is false if
// the file has none.
func (q *question) setToResolve(args []string, file string) (set referenceSet, found bool, err error) {
	switch {
	case file != "" && len(args) > 0:
		return set, false, errArgsAndFile
	case file != "":
		return q.onlySet(file)
	}
	set, err = q.setOfArgs(args)
	return set, err == nil, err
}

// onlySet returns the references in a file that belong to one integration and one
// connector. found is false if the file has no references. If any is malformed, the set has
// only faults.
func (q *question) onlySet(file string) (set referenceSet, found bool, err error) {
	connectors, err := readConnectors(file)
	if err != nil {
		return set, false, fmt.Errorf("%s: %w", file, err)
	}
	var sets []referenceSet
	for _, c := range connectors {
		if len(connectors) > 1 && q.connector != "" && c.Name != q.connector {
			continue
		}
		more, err := q.sets(c)
		if err != nil {
			return set, false, fmt.Errorf("%s: %w", file, err)
		}
		sets = append(sets, more...)
	}
	for _, s := range sets {
		set.faults = append(set.faults, s.faults...)
	}
	if len(set.faults) > 0 {
		return set, true, nil
	}
	if q.integration != "" && len(sets) > 1 {
		sets = slices.DeleteFunc(sets, func(s referenceSet) bool { return s.integration != q.integration })
	}
	if len(sets) == 0 {
		return set, false, nil
	}
	if len(sets) > 1 {
		var have []string
		for _, s := range sets {
			have = append(have, fmt.Sprintf("%q (connector %q)", s.integration, s.connector))
		}
		return set, false, fmt.Errorf("%s: the file has references of several integrations or connectors; choose one with --integration or --connector: %s", file, strings.Join(have, ", "))
	}
	return sets[0], true, nil
}
