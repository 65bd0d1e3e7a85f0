package kinds

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider/awssm"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const fullAWS = `id: orders
kind: AWS_SECRETS_MANAGER
aws:
  stores:
    - https://secretsmanager.eu-west-1.amazonaws.com
    - arn:aws:secretsmanager:us-east-1:123456789012
    - arn:aws:secretsmanager:eu-west-1:210987654321
  role:
    arn: arn:aws:iam::123456789012:role/team/secretbroker
    external_id: 5d1c7a52-9c1b-4a7e-9f25-6b1e0c9d4a10
    duration: 30m
    source_identity: secretbroker
    tags: {team: orders}
  credential: {type: web_identity, token_file: token, role_arn: "arn:aws:iam::999999999999:role/broker"}
  fips: true
  endpoints: {us-east-1: "https://vpce-0a1b.secretsmanager.us-east-1.vpce.amazonaws.com"}
  ca_file: ca.pem
  dial: {sts-fips.eu-west-1.amazonaws.com: "10.0.0.4:443"}
  private_endpoint: true
  rotation_dates: true
  events:
    queue_url: https://SQS.eu-west-1.amazonaws.com:443/210987654321/secret-events
    credential: {type: static, access_key_id_file: id, secret_access_key_file: key}
    role: {arn: "arn:aws:iam::210987654321:role/events", duration: 1h}
grants:
  - principals: [spiffe://example.org/a]
    secrets: [prod/*]
    stores: [https://secretsmanager.eu-west-1.amazonaws.com]
  - principals: [spiffe://example.org/b]
    stores: ["arn:aws:secretsmanager:us-east-1:123456789012"]
  - principals: [spiffe://example.org/c]
    stores: ["arn:aws:secretsmanager:eu-west-1:210987654321"]
`

func TestParseFullAWS(t *testing.T) {
	got := All().ParseFile("/etc/integrations/aws.yaml", []byte(fullAWS), sound)
	if err := got.Faults.Err(); err != nil {
		t.Fatal(err)
	}
	want := &integration.Integration{
		ID:   "orders",
		Kind: secret.KindAWSSecretsManager,
		Settings: &awssm.Settings{
			Stores: []string{
				"https://secretsmanager.eu-west-1.amazonaws.com", "arn:aws:secretsmanager:eu-west-1:123456789012",
				"https://secretsmanager.us-east-1.amazonaws.com", "arn:aws:secretsmanager:us-east-1:123456789012",
				"arn:aws:secretsmanager:eu-west-1:210987654321",
			},
			AccountID: "123456789012",
			Role: &awssm.Role{
				ARN: "arn:aws:iam::123456789012:role/team/secretbroker", ExternalID: "5d1c7a52-9c1b-4a7e-9f25-6b1e0c9d4a10",
				Duration: 30 * time.Minute, SourceIdentity: "secretbroker", Tags: map[string]string{"team": "orders"},
			},
			Credential: awssm.Credential{Type: awssm.WebIdentity, TokenFile: "/etc/integrations/token", RoleARN: "arn:aws:iam::999999999999:role/broker"},
			Endpoints: map[string]string{
				"eu-west-1": "https://secretsmanager-fips.eu-west-1.amazonaws.com",
				"us-east-1": "https://vpce-0a1b.secretsmanager.us-east-1.vpce.amazonaws.com",
			},
			STSRegion: "eu-west-1", STSEndpoint: "https://sts-fips.eu-west-1.amazonaws.com",
			CAFile:          "/etc/integrations/ca.pem",
			Dial:            map[string]string{"sts-fips.eu-west-1.amazonaws.com": "10.0.0.4:443"},
			PrivateEndpoint: true, RotationDates: true,
			Events: &awssm.Events{
				QueueURL: "https://sqs.eu-west-1.amazonaws.com/210987654321/secret-events",
				Region:   "eu-west-1", Account: "210987654321", Queue: "secret-events", Endpoint: "https://sqs-fips.eu-west-1.amazonaws.com",
				Credential: &awssm.Credential{Type: awssm.Static, AccessKeyIDFile: "/etc/integrations/id", SecretAccessKeyFile: "/etc/integrations/key"},
				Role:       &awssm.Role{ARN: "arn:aws:iam::210987654321:role/events", ExternalID: "5d1c7a52-9c1b-4a7e-9f25-6b1e0c9d4a10", Duration: time.Hour},
			},
		},
		Placement: integration.Placement{Cloud: "aws"},
	}
	if diff := cmp.Diff(want, got.Integration, cmpopts.IgnoreFields(integration.Integration{}, "Policy")); diff != "" {
		t.Error(diff)
	}
	refs := []integration.NamedFile{{Path: "/etc/integrations/token", Use: integration.UseToken}, {Path: "/etc/integrations/id"}, {Path: "/etc/integrations/key"}, {Path: "/etc/integrations/ca.pem", Use: integration.UseCA}}
	if diff := cmp.Diff(refs, got.Files, cmp.AllowUnexported(integration.NamedFile{})); diff != "" {
		t.Error(diff)
	}
	names := make(map[string]bool)
	for _, s := range got.Integration.ListSettings() {
		names[s.Name] = true
	}
	for _, name := range []string{"aws.stores", "aws.role.external_id", "aws.endpoints[eu-west-1]", "aws.role.tags[team]", "aws.events.queue_url", "aws.events.credential.type", "aws.events.role.arn"} {
		if !names[name] {
			t.Errorf("the settings have no %s", name)
		}
	}
}

// The policy decides equally on an ARN and an endpoint that name the same secret.
func TestAWSPolicy(t *testing.T) {
	in := All().ParseFile("/aws.yaml", []byte(fullAWS), sound).Integration
	const (
		a, b, c = "spiffe://example.org/a", "spiffe://example.org/b", "spiffe://example.org/c"
		europe  = "https://secretsmanager.eu-west-1.amazonaws.com"
		own     = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:"
		foreign = "arn:aws:secretsmanager:eu-west-1:210987654321:secret:"
		america = "https://secretsmanager.us-east-1.amazonaws.com"
	)
	for _, tt := range []struct {
		who       authz.Principal
		reference string
		want      authz.Effect
	}{
		{a, europe + "::prod/db", authz.Allowed},
		{a, own + "prod/db-AbCdEf", authz.Allowed},
		{a, own + "other/db-AbCdEf", authz.Denied},
		{a, foreign + "prod/db-AbCdEf", authz.Denied},
		{a, america + "::prod/db", authz.Denied},
		{b, america + "::db", authz.Allowed},
		{b, "arn:aws:secretsmanager:us-east-1:123456789012:secret:db-AbCdEf", authz.Allowed},
		{b, europe + "::db", authz.Denied},
		{c, foreign + "db-AbCdEf", authz.Allowed},
		{c, europe + "::db", authz.Denied},
		{c, own + "db-AbCdEf", authz.Denied},
	} {
		if d := in.Policy.Decide(tt.who, ref(t, tt.reference)); d.Effect != tt.want {
			t.Errorf("%s, %s: %v, want %v", tt.who, tt.reference, d.Effect, tt.want)
		}
	}
}

func TestParseAWSCredentials(t *testing.T) {
	for _, tt := range []struct {
		section string
		want    awssm.Credential
		account string
	}{
		{"  account_id: \"012345678901\"\n  credential: {type: static, access_key_id_file: id, secret_access_key_file: key}\n",
			awssm.Credential{Type: awssm.Static, AccessKeyIDFile: "/id", SecretAccessKeyFile: "/key"}, "012345678901"},
		{"  account_id: \"012345678901\"\n  credential: {type: static, access_key_id_file: id, secret_access_key_file: key, session_token_file: st}\n",
			awssm.Credential{Type: awssm.Static, AccessKeyIDFile: "/id", SecretAccessKeyFile: "/key", SessionTokenFile: "/st"}, "012345678901"},
		{"  account_id: \"012345678901\"\n  credential: {type: profile, credentials_file: creds, profile: orders}\n",
			awssm.Credential{Type: awssm.Profile, CredentialsFile: "/creds", Profile: "orders"}, "012345678901"},
		{"  credential: {type: web_identity, token_file: t, role_arn: \"arn:aws:iam::999999999999:role/r\"}\n",
			awssm.Credential{Type: awssm.WebIdentity, TokenFile: "/t", RoleARN: "arn:aws:iam::999999999999:role/r"}, "999999999999"},
		{"  credential: {type: default}\n  role: {arn: \"arn:aws:iam::123456789012:role/r\", external_id: xy}\n", awssm.Credential{Type: awssm.DefaultCredential}, "123456789012"},
	} {
		got := All().ParseFile("/x.yaml", []byte(headAWS+tt.section), sound)
		if err := got.Faults.Err(); err != nil {
			t.Error(err)
			continue
		}
		if diff := cmp.Diff(tt.want, got.Integration.Settings.(*awssm.Settings).Credential); diff != "" || got.Integration.Settings.(*awssm.Settings).AccountID != tt.account {
			t.Errorf("account %s, %s", got.Integration.Settings.(*awssm.Settings).AccountID, diff)
		}
		if r := got.Integration.Settings.(*awssm.Settings).Role; r != nil && r.Duration != time.Hour {
			t.Errorf("duration %s", r.Duration)
		}
	}
}

const (
	headAWS  = "id: x\nkind: AWS_SECRETS_MANAGER\naws:\n  stores: [https://secretsmanager.eu-west-1.amazonaws.com]\n"
	roleAWS  = "  role: {arn: \"arn:aws:iam::123456789012:role/r\", external_id: xy}\n"
	soundAWS = headAWS + roleAWS + "  credential: {type: default}\n"
)

func TestParseAWSFaults(t *testing.T) {
	with := func(section string) string { return soundAWS + section }
	const soundQueue = "https://sqs.eu-west-1.amazonaws.com/123456789012/q"
	queue := func(url string) string { return with("  events: {queue_url: " + url + "}\n") }
	role := func(more string) string {
		return strings.Replace(soundAWS, "external_id: xy}", "external_id: xy, "+more+"}", 1)
	}
	credential := func(c string) string { return strings.Replace(soundAWS, "{type: default}", c, 1) }
	const tag = "expected a key of 1 to 128 and a value of up to 256 letters, digits, spaces and characters of _.:/=+@-; keys do not begin with aws:"
	for _, tt := range []struct{ name, data, want string }{
		{"sound", soundAWS, ""},
		{"no stores", "id: x\nkind: AWS_SECRETS_MANAGER\naws:\n" + roleAWS + "  credential: {type: default}\n", "aws.stores: at least one store is required, such as https://secretsmanager.eu-west-1.amazonaws.com"},
		{"a vault for a store", strings.Replace(soundAWS, "secretsmanager.eu-west-1.amazonaws.com", "abc.vault.azure.net", 1), "aws.stores[0]: not a store of AWS Secrets Manager: the host is not a regional endpoint"},
		{"store twice", strings.Replace(soundAWS, ".com]", ".com, https://SECRETSMANAGER.eu-west-1.amazonaws.com/]", 1), "aws.stores[1]: the same store as aws.stores[0]"},
		{"two partitions", strings.Replace(soundAWS, ".com]", ".com, https://secretsmanager.cn-north-1.amazonaws.com.cn]", 1), "aws.stores[1]: a store of the partition aws-cn, but the first one is of aws; make an integration for each partition"},
		{"role of another partition", strings.Replace(soundAWS, "arn:aws:iam", "arn:aws-cn:iam", 1), "aws.role.arn: a role of the partition aws-cn, but aws.stores are of aws"},
		{"sts in another partition", with("  sts_region: us-gov-west-1\n"), "aws.sts_region: a region of the partition aws-us-gov, but aws.stores are of aws"},
		{"sts nowhere", with("  sts_region: nowhere\n"), "aws.sts_region: expected a region, such as eu-west-1"},
		{"no credential", headAWS + roleAWS, "aws.credential.type: missing; it is required: default, profile, static or web_identity"},
		{"unknown credential", credential("{type: magic}"), "aws.credential.type: expected default, profile, static or web_identity"},
		{"half static keys", credential("{type: static, access_key_id_file: f}"), "aws.credential.secret_access_key_file: missing; the credential type static requires it"},
		{"profile without a name", credential("{type: profile, credentials_file: f}"), "aws.credential.profile: missing; the credential type profile requires it"},
		{"odd profile", credential("{type: profile, credentials_file: f, profile: \"a b\"}"), "aws.credential.profile: expected the name of a section of the credentials file"},
		{"keys with default", credential("{type: default, access_key_id_file: f}"), "aws.credential.access_key_id_file: does not belong to the credential type default; remove it or change the type"},
		{"token without a role", credential("{type: web_identity, token_file: f}"), "aws.credential.role_arn: missing; the credential type web_identity requires it"},
		{"token with an odd role", credential("{type: web_identity, token_file: f, role_arn: r}"), "aws.credential.role_arn: expected a role's ARN, arn:aws:iam::ACCOUNT:role/NAME"},
		{"neither role nor account", headAWS + "  credential: {type: default}\n", "aws.account_id: missing; without a role it is required: the account of the credential"},
		{"odd account", headAWS + "  credential: {type: default}\n  account_id: 12-34\n", "aws.account_id: expected an account's 12 digits, in quotation marks"},
		{"another account than the role's", with("  account_id: \"210987654321\"\n"), "aws.account_id: not the account of aws.role.arn, from which secrets are read"},
		{"role without an external id", strings.Replace(soundAWS, ", external_id: xy", "", 1), "aws.role.external_id: missing; it is required: a unique identifier"},
		{"odd external id", strings.Replace(soundAWS, "external_id: xy", "external_id: \"a b\"", 1), "aws.role.external_id: expected 2 to 1224 letters, digits and characters of +=,.@:/_-"},
		{"role that is none", strings.Replace(soundAWS, ":role/r", ":user/r", 1), "aws.role.arn: expected the ARN of the role to assume, arn:aws:iam::ACCOUNT:role/NAME"},
		{"session too short", role("duration: 1m"), "aws.role.duration: expected 15m to 12h in whole seconds, and no more than the role allows"},
		{"session too long", role("duration: 13h"), "aws.role.duration: expected 15m to 12h in whole seconds, and no more than the role allows"},
		{"chained session too long", strings.Replace(role("duration: 2h"), "{type: default}", "{type: web_identity, token_file: f, role_arn: \"arn:aws:iam::999999999999:role/r\"}", 1),
			"aws.role.duration: at most 1h for a role that another role assumes, as with the credential type web_identity"},
		{"odd source identity", role("source_identity: \"aws:x\""), "aws.role.source_identity: expected 2 to 64 letters, digits and characters of +=,.@_-"},
		{"odd tag", role("tags: {aws:x: y}"), "aws.role.tags[aws:x]: " + tag},
		{"odd value of a tag", role("tags: {x: \"<y>\"}"), "aws.role.tags[x]: " + tag},
		{"endpoint elsewhere", with("  endpoints: {eu-west-2: https://vpce.example.org}\n"), "aws.endpoints[eu-west-2]: not a region of aws.stores; nothing else is contacted"},
		{"endpoint without TLS", with("  endpoints: {eu-west-1: http://vpce.example.org}\n"), "aws.endpoints[eu-west-1]: expected https://HOST with nothing after it"},
		{"endpoint with a path", with("  endpoints: {eu-west-1: https://vpce.example.org/x}\n"), "aws.endpoints[eu-west-1]: expected https://HOST with nothing after it"},
		{"odd sts endpoint", with("  sts_endpoint: \"https://u@sts.example.org\"\n"), "aws.sts_endpoint: expected https://HOST with nothing after it"},
		{"dialling elsewhere", with("  dial: {sts.us-east-1.amazonaws.com: \"10.0.0.1:443\"}\n"), "aws.dial[sts.us-east-1.amazonaws.com]: not the host of an endpoint; nothing else is contacted"},
		{"dialling nowhere", with("  dial: {sts.eu-west-1.amazonaws.com: \"10.0.0.1\"}\n"), "aws.dial[sts.eu-west-1.amazonaws.com]: expected the address to connect to, host:port, such as 127.0.0.1:8444"},
		{"events without a queue", with("  events: {}\n"), "aws.events.queue_url: missing; it is required: the URL of the SQS queue"},
		{"events of nothing", with("  events: {role: {arn: \"arn:aws:iam::123456789012:role/r\"}}\n"), "aws.events.queue_url: missing"},
		{"a queue", queue("https://sqs.eu-west-1.amazonaws.com/123456789012/q"), ""},
		{"a queue of another account and region", queue("https://sqs.us-east-1.amazonaws.com/210987654321/q"), ""},
		{"a queue's ARN", queue("arn:aws:sqs:eu-west-1:123456789012:q"), "aws.events.queue_url: this is an ARN; expected https://sqs.REGION.amazonaws.com/ACCOUNT/NAME"},
		{"a queue without TLS", queue("http://sqs.eu-west-1.amazonaws.com/123456789012/q"), "aws.events.queue_url: expected https://sqs.REGION.amazonaws.com/ACCOUNT/NAME"},
		{"a queue elsewhere", queue("https://sqs.example.org/123456789012/q"), "aws.events.queue_url: not a regional endpoint of SQS"},
		{"a queue at an address", queue("https://sqs.eu-west-1.amazonaws.com@169.254.169.254/123456789012/q"), "aws.events.queue_url: not a regional endpoint of SQS"},
		{"a queue with a port", queue("https://sqs.eu-west-1.amazonaws.com:8443/123456789012/q"), "aws.events.queue_url: not a regional endpoint of SQS"},
		{"a queue of the wrong partition", queue("https://sqs.cn-north-1.amazonaws.com/123456789012/q"), "aws.events.queue_url: not a regional endpoint of SQS"},
		{"a queue of another partition", queue("https://sqs.cn-north-1.amazonaws.com.cn/123456789012/q"), "aws.events.queue_url: a queue of the partition aws-cn, but aws.stores are of aws"},
		{"a queue at an old endpoint", queue("https://eu-west-1.queue.amazonaws.com/123456789012/q"), "aws.events.queue_url: an endpoint of an older form"},
		{"a queue at a FIPS endpoint", queue("https://sqs-fips.us-east-1.amazonaws.com/123456789012/q"), "aws.events.queue_url: a FIPS endpoint; write sqs.us-east-1.amazonaws.com and set aws.fips"},
		{"a queue at a VPC endpoint", queue("https://vpce-1-2.sqs.eu-west-1.vpce.amazonaws.com/123456789012/q"), "aws.events.queue_url: a VPC endpoint"},
		{"a queue without an account", queue("https://sqs.eu-west-1.amazonaws.com/q"), "aws.events.queue_url: an account's 12 digits must follow the host"},
		{"a queue without a name", queue("https://sqs.eu-west-1.amazonaws.com/123456789012"), "aws.events.queue_url: the queue's name must follow the account"},
		{"a queue with a query", queue("https://sqs.eu-west-1.amazonaws.com/123456789012/q?a=b"), "aws.events.queue_url: the queue's name must follow the account"},
		{"a FIFO queue", queue("https://sqs.eu-west-1.amazonaws.com/123456789012/q.fifo"), "aws.events.queue_url: a FIFO queue"},
		{"half a credential for events", queue(soundQueue + ", credential: {type: static, access_key_id_file: f}"), "aws.events.credential.secret_access_key_file: missing"},
		{"a role for events without an external id", headAWS + "  account_id: \"012345678901\"\n  credential: {type: default}\n  events: {queue_url: " + soundQueue + ", role: {arn: \"arn:aws:iam::123456789012:role/r\"}}\n",
			"aws.events.role.external_id: missing"},
		{"a role for events of another partition", queue(soundQueue + ", role: {arn: \"arn:aws-cn:iam::123456789012:role/r\"}"), "aws.events.role.arn: a role of the partition aws-cn, but aws.stores are of aws"},
		{"chained session for events too long", queue(soundQueue + ", role: {arn: \"arn:aws:iam::123456789012:role/r\", duration: 2h}, credential: {type: web_identity, token_file: f, role_arn: \"arn:aws:iam::999999999999:role/r\"}"),
			"aws.events.role.duration: at most 1h"},
		{"dialling the queue", queue(soundQueue) + "  dial: {sqs.eu-west-1.amazonaws.com: \"10.0.0.1:443\"}\n", ""},
		{"unknown setting", with("  region: eu-west-1\n"), `aws: unknown setting "region"`},
		{"grant for another store", with("grants:\n  - principals: [spiffe://example.org/a]\n    stores: [https://secretsmanager.eu-west-2.amazonaws.com]\n"), "grants[0].stores[0]: not a store of the integration"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := All().ParseFile("/x.yaml", []byte(tt.data), sound)
			faults := make([]string, len(got.Faults))
			for i, f := range got.Faults {
				faults[i] = f.String()
			}
			if tt.want == "" && len(faults) > 0 || len(faults) > 1 || tt.want != "" && !slices.ContainsFunc(faults, func(f string) bool { return strings.Contains(f, tt.want) }) {
				t.Errorf("got %q, want %q", faults, tt.want)
			}
		})
	}
}

// In GovCloud, the plain name of STS is a FIPS endpoint.
func TestAWSEndpoints(t *testing.T) {
	gov := strings.NewReplacer("eu-west-1", "us-gov-west-1", "arn:aws:", "arn:aws-us-gov:").Replace(soundAWS+"  events: {queue_url: https://sqs.eu-west-1.amazonaws.com/123456789012/q}\n") + "  fips: true\n"
	got := All().ParseFile("/x.yaml", []byte(gov), sound)
	if err := got.Faults.Err(); err != nil {
		t.Fatal(err)
	}
	if a := got.Integration.Settings.(*awssm.Settings); a.STSEndpoint != "https://sts.us-gov-west-1.amazonaws.com" || a.Endpoints["us-gov-west-1"] != "https://secretsmanager-fips.us-gov-west-1.amazonaws.com" || a.Events.Endpoint != "https://sqs.us-gov-west-1.amazonaws.com" {
		t.Errorf("STS at %s, endpoints %v", a.STSEndpoint, a.Endpoints)
	}
	region, account := got.Integration.Settings.(*awssm.Settings).Place("https://secretsmanager.us-gov-west-1.amazonaws.com")
	if region != "us-gov-west-1" || account != "123456789012" {
		t.Errorf("place %s, %s", region, account)
	}
}

// The stores of the integration's own account have one name in the cache, in each region.
func TestCanonicalAWSStores(t *testing.T) {
	in := All().ParseFile("/etc/integrations/aws.yaml", []byte(fullAWS), sound).Integration
	for store, want := range map[string]string{
		"https://secretsmanager.eu-west-1.amazonaws.com":   "https://secretsmanager.eu-west-1.amazonaws.com",
		"arn:aws:secretsmanager:eu-west-1:123456789012":    "https://secretsmanager.eu-west-1.amazonaws.com",
		"arn:aws:secretsmanager:us-east-1:123456789012":    "https://secretsmanager.us-east-1.amazonaws.com",
		"arn:aws:secretsmanager:eu-west-1:210987654321":    "arn:aws:secretsmanager:eu-west-1:210987654321",
		"arn:aws:secretsmanager:eu-central-1:123456789012": "arn:aws:secretsmanager:eu-central-1:123456789012", // not listed
	} {
		if got := in.CanonicalStore(store); got != want {
			t.Errorf("%s: %s, want %s", store, got, want)
		}
		if n := testing.AllocsPerRun(10, func() { in.CanonicalStore(store) }); n != 0 {
			t.Errorf("%s: %v allocations", store, n)
		}
	}
}
