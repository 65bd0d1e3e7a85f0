package manage

import (
	"strings"

	"github.com/secretbroker/secretbroker/internal/integration"
)

// withPolicies adds the policies to paste into the cloud's configuration. They grow with
// the grants, so lists of integrations do not include them.
func withPolicies(in Integration, of *integration.Integration) Integration {
	if of == nil {
		return in
	}
	for _, p := range of.CloudPolicies() {
		title := strings.ToUpper(p.Title[:1]) + p.Title[1:]
		in.Facts = append(in.Facts, Fact{ID: p.ID, Name: title, Value: p.JSON})
	}
	return in
}
