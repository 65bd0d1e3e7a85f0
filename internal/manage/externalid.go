package manage

import "github.com/secretbroker/secretbroker/internal/integration"

// The broker assumes an AWS role with an external ID, which tells the role's trust policy
// that the request is for this integration and not for another one of the same broker. If
// the external ID is omitted, the broker generates a unique one, which later changes keep.
// A kind declares such a setting; see integration.Spec.

// generate sets the omitted values that the broker generates.
func generate(f *Document) error {
	if _, wanted := f.Generated(); !wanted {
		return nil
	}
	return f.SetGenerated(integration.NewUUID())
}
