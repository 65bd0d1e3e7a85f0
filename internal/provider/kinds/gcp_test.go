package kinds

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider/gcpsm"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const gcpFull = `
id: cspi-gcp
kind: GCP_SECRET_MANAGER
gcp:
  projects: [projects/my-project, projects/my-project/locations/europe-west3, projects/123456789012]
  impersonate_service_account: reader@my-project.iam.gserviceaccount.com
  credential: {type: workload_identity_federation, config_file: federation.json}
  ca_file: ca.pem
  private_endpoint: true
  dial:
    secretmanager.googleapis.com: 10.0.0.5:443
    Secretmanager.europe-west3.rep.googleapis.com: psc.example.org:443
    sts.googleapis.com: 10.0.0.5:443
    iamcredentials.googleapis.com: "[fd00::5]:443"
grants:
  - principals: [spiffe://example.org/connect/*]
    stores: [projects/my-project]
    secrets: [DB_*]
`

func TestParseGCP(t *testing.T) {
	got := All().ParseFile("/d/x.yaml", []byte(gcpFull), sound)
	if err := got.Faults.Err(); err != nil {
		t.Fatal(err)
	}
	want := &integration.Integration{
		ID:   "cspi-gcp",
		Kind: secret.KindGCPSecretManager,
		Settings: &gcpsm.Settings{
			Stores:                    []string{"projects/my-project", "projects/my-project/locations/europe-west3", "projects/123456789012"},
			ImpersonateServiceAccount: "reader@my-project.iam.gserviceaccount.com",
			Credential:                gcpsm.Credential{Type: gcpsm.WorkloadIdentityFederation, ConfigFile: "/d/federation.json"},
			CAFile:                    "/d/ca.pem",
			PrivateEndpoint:           true,
			Dial: map[string]string{
				"secretmanager.googleapis.com":                  "10.0.0.5:443",
				"secretmanager.europe-west3.rep.googleapis.com": "psc.example.org:443",
				"sts.googleapis.com":                            "10.0.0.5:443",
				"iamcredentials.googleapis.com":                 "[fd00::5]:443",
			},
		},
		Placement: integration.Placement{Cloud: "gcp"},
	}
	if diff := cmp.Diff(want, got.Integration, cmpopts.IgnoreFields(integration.Integration{}, "Policy")); diff != "" {
		t.Error(diff)
	}
	refs := []integration.NamedFile{{Path: "/d/federation.json", Use: integration.UseCredential}, {Path: "/d/ca.pem", Use: integration.UseCA}}
	if diff := cmp.Diff(refs, got.Files, cmp.AllowUnexported(integration.NamedFile{})); diff != "" {
		t.Error(diff)
	}
	for in, want := range map[string]authz.Effect{
		"projects/my-project/secrets/DB_x":                        authz.Allowed,
		"projects/my-project/secrets/DB_x#3::k":                   authz.Allowed,
		"projects/my-project/secrets/db_x":                        authz.Denied, // names are case-sensitive
		"projects/my-project/locations/europe-west3/secrets/DB_x": authz.Denied,
		"projects/another-project/secrets/DB_x":                   authz.Denied,
	} {
		if got := got.Integration.Policy.Decide("spiffe://example.org/connect/1", ref(t, in)); got.Effect != want {
			t.Errorf("%s: %s, want %s", in, got.Effect, want)
		}
	}
	for _, s := range got.Integration.ListSettings() {
		if strings.Contains(s.Value, "/d/") {
			t.Errorf("the setting %s tells a path: %s", s.Name, s.Value)
		}
	}
}

func TestParseGCPCredentials(t *testing.T) {
	for credential, want := range map[string]gcpsm.Credential{
		"{type: metadata_server}":                              {Type: gcpsm.MetadataServer},
		"{type: workload_identity_federation, config_file: c}": {Type: gcpsm.WorkloadIdentityFederation, ConfigFile: "/d/c"},
		"{type: service_account_key, key_file: /k}":            {Type: gcpsm.ServiceAccountKey, KeyFile: "/k"},
		"{type: application_default}":                          {Type: gcpsm.ApplicationDefault},
	} {
		got := All().ParseFile("/d/x.yaml", []byte("id: x\nkind: GCP_SECRET_MANAGER\ngcp: {projects: [projects/my-project], credential: "+credential+"}\n"), sound)
		if err := got.Faults.Err(); err != nil {
			t.Errorf("%s: %v", credential, err)
			continue
		}
		if diff := cmp.Diff(want, got.Integration.Settings.(*gcpsm.Settings).Credential); diff != "" {
			t.Errorf("%s: %s", credential, diff)
		}
	}
}

func TestParseGCPFaults(t *testing.T) {
	const rest = ", credential: {type: metadata_server}"
	for section, want := range map[string]string{
		"{projects: [projects/my-project]}":                                                                            "gcp.credential.type: missing",
		"{projects: [projects/my-project], credential: {type: adc}}":                                                   "gcp.credential.type: expected application_default",
		"{projects: [projects/my-project], credential: {type: service_account_key}}":                                   "gcp.credential.key_file: missing",
		"{projects: [projects/my-project], credential: {type: metadata_server, key_file: k}}":                          "gcp.credential.key_file: does not belong",
		"{projects: [projects/my-project], credential: {type: service_account_key, key_file: k, config_file: c}}":      "gcp.credential.config_file: does not belong",
		"{projects: []" + rest + "}":                                                                                   "gcp.projects: at least one project",
		"{projects: [my-project]" + rest + "}":                                                                         "gcp.projects[0]: not a project: it does not begin with projects/",
		"{projects: [projects/my-project, projects/my-project]" + rest + "}":                                           "gcp.projects[1]: the same store as gcp.projects[0]",
		"{projects: [projects/my-project/secrets/db]" + rest + "}":                                                     "gcp.projects[0]: not a project",
		"{projects: [projects/my-project], impersonate_service_account: me@example.com" + rest + "}":                   "gcp.impersonate_service_account: expected",
		"{projects: [projects/my-project], impersonate_service_account: ''" + rest + "}":                               "gcp.impersonate_service_account: there is no value",
		"{projects: [projects/my-project], impersonate_service_account: a/../b@p.iam.gserviceaccount.com" + rest + "}": "gcp.impersonate_service_account: expected",
		"{projects: [projects/my-project], dial: {oauth2.googleapis.com: '10.0.0.5:443'}" + rest + "}":                 "not a host that this integration contacts; those are secretmanager.googleapis.com",
		"{projects: [projects/my-project], dial: {evil.example: '10.0.0.5:443'}" + rest + "}":                          "not a host that this integration contacts",
		"{projects: [projects/my-project], dial: {secretmanager.googleapis.com: '10.0.0.5'}" + rest + "}":              "expected the address to connect to",
		"{projects: [projects/my-project], endpoint: x" + rest + "}":                                                   `unknown setting "endpoint"`,
	} {
		got := All().ParseFile("/d/x.yaml", []byte("id: x\nkind: GCP_SECRET_MANAGER\ngcp: "+section+"\n"), sound)
		if err := got.Faults.Err(); got.Integration != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", section, err, want)
		}
	}
}
