package connectorfile

import (
	"fmt"
	"strings"
)

// ManagedReferences returns the configs that the connector's secret.manager properties list,
// in their order, in the form of placeholders: Whole, with the reference and the integration.
// It returns none if the connector has no such properties, or if they are disabled. What is
// wrong with the properties is a Placeholder with a Fault.
func (c Connector) ManagedReferences() []Placeholder {
	if len(c.Managed()) == 0 {
		return nil
	}
	fault := func(config, format string, args ...any) Placeholder {
		return Placeholder{Property: config, Line: c.Line(config), Fault: fmt.Sprintf(format, args...)}
	}
	switch strings.ToLower(c.Configs[managerEnabled]) {
	case "true":
	case "false":
		return nil
	default:
		return []Placeholder{fault(managerEnabled, "%s must be true or false", managerEnabled)}
	}
	id := c.IntegrationID()
	if id == "" {
		return []Placeholder{fault(managerConfigs, "%s is missing", managerIntegration)}
	}
	var found []Placeholder
	listed := make(map[string]bool)
	for name := range strings.SplitSeq(c.Configs[managerConfigs], ",") {
		name = strings.TrimSpace(name)
		reference, present := c.Configs[name]
		p := Placeholder{Property: name, Integration: id, Reference: reference, Whole: true, Line: c.Line(name)}
		switch {
		case name == "":
			p = fault(managerConfigs, "%s is empty or has an empty element", managerConfigs)
		case isManager(name):
			p = fault(name, "%s lists %q, one of the secret manager's own properties", managerConfigs, name)
		case listed[name]:
			p = fault(name, "%s lists %q twice", managerConfigs, name)
		case !present:
			p = fault(managerConfigs, "%s lists %q, but the configuration does not contain it", managerConfigs, name)
		}
		listed[name] = true
		found = append(found, p)
	}
	return found
}
