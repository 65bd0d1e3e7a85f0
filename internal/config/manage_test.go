package config

import (
	"slices"
	"testing"
)

const minimal = `tls: {cert_file: a, key_file: b, client_ca_file: c}
registry: {directory: {path: d}}
audit: {file: stdout}
`

// Incomplete rules would deny or allow everything.
func managementFaults() []faultTest {
	tests := []faultTest{
		{"", "roles: {assigner: [x]}", `b.yaml:4: roles.assigner[0]: expected a SPIFFE ID ("spiffe://...") or "dns:HOST"`},
		{"", "usage: {window: 1s}", "b.yaml:4: usage.window: expected 1m to 90d"},
		{"", "validation: {every: 8d}", "b.yaml:4: validation.every: expected 1m to 7d, or 0s for never"},
		{"", "management: {usage_window: 1h}", `b.yaml:4: unknown setting "management"; it is now usage (window) and validation (at_start, every)`},
		{"", "placement: {kinds: [AZURE]}", "b.yaml:4: placement.kinds[0]: there is no such kind"},
		{"", "placement: {regions: []}", "b.yaml:4: placement.regions: an empty list would allow nothing; remove the setting to allow any"},
		{"", "placement: {regions: [West Europe]}", "b.yaml:4: placement.regions[0]: expected lower-case letters, digits and hyphens, such as westeurope"},
		{"", "placement: {same: planet}", "b.yaml:4: placement.same: expected cloud or region"},
		{"", "placement: {same: region}", "b.yaml:4: placement.same: no setting determines where callers are, so no caller could use an integration; add caller_path or callers"},
		{"", "placement: {caller_path: '/{region}'}", "b.yaml:4: placement.same: missing; set it to cloud or region, without it the broker does not check where callers are"},
		{"", "placement: {same: cloud, callers: [{cloud: azure}]}", "b.yaml:4: placement.callers[0].principals: missing; it is required: the callers in that place"},
		{"", "placement: {same: cloud, callers: [{principals: ['dns:a']}]}", "b.yaml:4: placement.callers[0].cloud: missing; it is required"},
		{"", "placement: {same: cloud, caller_path: region}", "b.yaml:4: placement.caller_path: expected how SPIFFE paths begin, such as /connect/{cloud}/{region}"},
	}
	for i := range tests {
		tests[i].data = minimal + tests[i].data + "\n"
	}
	return tests
}

// faulty returns the faulty files of the tests in this package.
func faulty() []faultTest {
	return slices.Concat(generalFaults(), registryFaults(), managementFaults())
}

func TestManagementAndPlacementFaults(t *testing.T) {
	for _, tt := range managementFaults() {
		if _, err := Parse("b.yaml", []byte(tt.data)); err == nil || err.Error() != tt.want {
			t.Errorf("%s:\n got %v\nwant %s", tt.data, err, tt.want)
		}
	}
}
