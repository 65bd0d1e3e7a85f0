package kinds

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/integration"
)

// The callers that may change a setting through the API.
const (
	byOwner    = "the integration's owner"
	byOperator = "the owner of all integrations"
	// closes is like byOperator, but if the setting is present, the restriction
	// applies to the whole section.
	closes = "the owner of all integrations, with all of the section"
)

// settingClasses states for every setting of every kind who may change it. A type is
// listed with its value.
var settingClasses = map[string]string{
	"azure.tenant_id": byOwner, "azure.client_id": byOwner, "azure.vaults": byOwner,
	"azure.credential.type=client_secret": byOwner, "azure.credential.type=client_certificate": byOwner, "azure.credential.send_certificate_chain": byOwner,
	"azure.credential.type=workload_identity": closes, "azure.credential.type=managed_identity": closes, "azure.credential.type=default": closes,
	"azure.credential.client_secret_file": closes, "azure.credential.certificate_file": closes, "azure.credential.token_file": closes,
	"azure.ca_file": closes, "azure.authority_host": closes, "azure.disable_instance_discovery": closes, "azure.dial": closes, "azure.private_endpoint": closes,

	"azure.events.queue_url": byOwner, "azure.events.tenant_id": byOwner, "azure.events.client_id": byOwner,
	"azure.events.credential.type=client_secret": byOwner, "azure.events.credential.type=client_certificate": byOwner, "azure.events.credential.send_certificate_chain": byOwner,
	"azure.events.credential.type=workload_identity": closes, "azure.events.credential.type=managed_identity": closes, "azure.events.credential.type=default": closes,
	"azure.events.credential.client_secret_file": closes, "azure.events.credential.certificate_file": closes, "azure.events.credential.token_file": closes,

	"aws.stores": byOwner, "aws.account_id": byOwner, "aws.fips": byOwner, "aws.sts_region": byOwner, "aws.rotation_dates": byOwner,
	"aws.role.arn": byOwner, "aws.role.duration": byOwner, "aws.role.source_identity": byOwner, "aws.role.tags": byOwner,
	"aws.role.external_id":       byOperator,
	"aws.credential.type=static": byOwner, "aws.credential.type=profile": closes, "aws.credential.type=web_identity": closes, "aws.credential.type=default": closes,
	"aws.credential.access_key_id_file": closes, "aws.credential.secret_access_key_file": closes, "aws.credential.session_token_file": closes,
	"aws.credential.credentials_file": closes, "aws.credential.profile": closes, "aws.credential.token_file": closes, "aws.credential.role_arn": closes,
	"aws.events.queue_url": byOwner,
	"aws.events.role.arn":  byOwner, "aws.events.role.duration": byOwner, "aws.events.role.source_identity": byOwner, "aws.events.role.tags": byOwner,
	"aws.events.role.external_id":       byOperator,
	"aws.events.credential.type=static": byOwner, "aws.events.credential.type=profile": closes, "aws.events.credential.type=web_identity": closes, "aws.events.credential.type=default": closes,
	"aws.events.credential.access_key_id_file": closes, "aws.events.credential.secret_access_key_file": closes, "aws.events.credential.session_token_file": closes,
	"aws.events.credential.credentials_file": closes, "aws.events.credential.profile": closes, "aws.events.credential.token_file": closes, "aws.events.credential.role_arn": closes,
	"aws.endpoints": closes, "aws.sts_endpoint": closes, "aws.ca_file": closes, "aws.dial": closes, "aws.private_endpoint": closes,

	"gcp.projects": byOwner, "gcp.impersonate_service_account": byOwner, "gcp.credential.type=service_account_key": byOwner,
	"gcp.credential.type=metadata_server": closes, "gcp.credential.type=workload_identity_federation": closes, "gcp.credential.type=application_default": closes,
	"gcp.credential.config_file": closes, "gcp.credential.key_file": closes, "gcp.ca_file": closes, "gcp.dial": closes, "gcp.private_endpoint": closes,
	"gcp.events.subscription": byOwner, "gcp.events.impersonate_service_account": byOwner, "gcp.events.credential.type=service_account_key": byOwner,
	"gcp.events.credential.type=metadata_server": closes, "gcp.events.credential.type=workload_identity_federation": closes, "gcp.events.credential.type=application_default": closes,
	"gcp.events.credential.config_file": closes, "gcp.events.credential.key_file": closes,

	"vault.address": byOperator, "vault.namespace": byOwner, "vault.mounts": byOwner, "vault.events.poll": byOwner,
	"vault.auth.type=approle": byOwner, "vault.auth.type=jwt": byOwner, "vault.auth.type=cert": byOwner, "vault.auth.type=token": byOwner,
	"vault.auth.type=kubernetes": closes,
	"vault.auth.mount":           byOwner, "vault.auth.role": byOwner, "vault.auth.role_id": byOwner,
	"vault.auth.secret_id_file": closes, "vault.auth.token_file": closes, "vault.auth.certificate_file": closes,
	"vault.ca_file": closes, "vault.dial": closes, "vault.private_endpoint": closes,

	"local.directories": closes, "local.environment": closes,
}

// knownSettings returns the settings that the parser accepts in a section, with the
// values of types.
func knownSettings(spec integration.Spec, path string, section reflect.Type) (all []string) {
	for f := range section.Fields() {
		name := path + "." + f.Tag.Get("yaml")
		switch {
		case f.Type.Kind() == reflect.Struct:
			all = append(all, knownSettings(spec, name, f.Type)...)
		case spec.Choices[name] != nil:
			for _, value := range spec.Choices[name] {
				all = append(all, name+"="+value)
			}
		default:
			all = append(all, name)
		}
	}
	return all
}

// Every setting that the parser accepts is in the table, and only the callers in the
// table may change it.
func TestSettingClasses(t *testing.T) {
	var known []string
	for _, spec := range All().All() {
		kind := spec.Kind
		for _, setting := range knownSettings(spec, spec.Section, spec.Parse.Section()) {
			known = append(known, setting)
			class := closes
			switch {
			case All().IsMutable(kind, setting) && All().IsImmutable(kind, setting):
				t.Errorf("%s is in two classes", setting)
			case All().IsMutable(kind, setting):
				class = byOwner
			case All().IsImmutable(kind, setting):
				class = byOperator
			}
			if class != settingClasses[setting] {
				t.Errorf("%s is for %s, want %q", setting, class, settingClasses[setting])
			}
			if strings.HasSuffix(setting, "_file") && class != closes {
				t.Errorf("%s names a file of the broker's machine", setting)
			}
			// A setting that is not listed is closed, even if its name begins with
			// that of a listed one.
			for _, unknown := range []string{setting + "x", All().Section(kind) + ".later", All().Section(kind) + ".credential.type=later", All().Section(kind) + ".auth.type=later"} {
				if base, _, _ := strings.Cut(setting, "="); unknown != base && (All().IsMutable(kind, unknown) || All().IsImmutable(kind, unknown)) {
					t.Errorf("%s is open", unknown)
				}
			}
		}
		if All().IsMutable(kind, All().Section(kind)) {
			t.Errorf("%s as a whole is open", All().Section(kind))
		}
	}
	slices.Sort(known)
	if diff := cmp.Diff(known, slices.Sorted(maps.Keys(settingClasses))); diff != "" {
		t.Errorf("the parser and the table know different settings:\n%s", diff)
	}
}

// The owner of a document that does not come from a file cannot choose what is read
// from the broker's machine.
func TestLocalDocuments(t *testing.T) {
	dir := t.TempDir()
	parse := func(settings string) integration.Parsed {
		return All().ParseDocument([]byte("id: x\nkind: LOCAL_FILE\nlocal: "+settings+"\n"), integration.DocumentConfig{Files: []string{dir}})
	}
	for settings, want := range map[string]string{
		"{directories: [" + dir + "]}":          "",
		"{directories: [" + dir + "/deep]}":     "",
		"{directories: [/etc]}":                 "registry.allowed_files",
		"{directories: [" + dir + "/..]}":       "local.directories[0]",
		"{directories: [" + dir + "x]}":         "registry.allowed_files",
		"{directories: [relative]}":             "local.directories[0]",
		"{environment: [PGPASSWORD]}":           "in files only",
		"{environment: ['not a name']}":         "in files only",
		"{directories: [/], environment: [ A]}": "local.directories[0]",
	} {
		p := parse(settings)
		switch {
		case want == "" && p.Integration == nil:
			t.Errorf("%s: %v", settings, p.Faults.Err())
		case want != "" && (p.Integration != nil || !strings.Contains(p.Faults.Error(), want)):
			t.Errorf("%s: %v, want %q", settings, p.Faults.Err(), want)
		}
	}
}
