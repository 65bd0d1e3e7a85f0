package manage

import (
	"strings"

	"github.com/secretbroker/secretbroker/internal/integration"
)

// withPolicies adds the documents to paste at the cloud. They are as long as the
// grants are many, and not for lists.
func withPolicies(in Integration, of *integration.Integration) Integration {
	if of == nil {
		return in
	}
	for _, p := range of.CloudPolicies() {
		title := strings.ToUpper(p.Title[:1]) + p.Title[1:]
		in.Facts = append(in.Facts, Fact{Name: title, Value: p.JSON})
	}
	return in
}
