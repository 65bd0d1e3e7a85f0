package kinds

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/integration"
)

func TestAWSCloudPolicies(t *testing.T) {
	data := soundAWS + `grants:
  - principals: [spiffe://example.org/a]
    secrets: [prod/db, prod/kafka-*]
  - principals: [spiffe://example.org/b]
    secrets: [prod/db]
    stores: [https://secretsmanager.eu-west-1.amazonaws.com]
`
	in := All().ParseFile("/x.yaml", []byte(data), sound).Integration
	want := []integration.CloudPolicy{
		{ID: "AWS_TRUST_POLICY", Title: "trust policy of the role arn:aws:iam::123456789012:role/r", JSON: `{
  "Version": "2012-10-17",
  "Statement": [
    {
      "Effect": "Allow",
      "Principal": {
        "AWS": "arn:aws:iam::<ACCOUNT>:role/<THE BROKER'S ROLE>"
      },
      "Action": [
        "sts:AssumeRole"
      ],
      "Condition": {
        "StringEquals": {
          "sts:ExternalId": "xy"
        }
      }
    }
  ]
}`},
		{ID: "AWS_PERMISSIONS_POLICY", Title: "permissions of the role arn:aws:iam::123456789012:role/r", JSON: `{
  "Version": "2012-10-17",
  "Statement": [
    {
      "Effect": "Allow",
      "Action": [
        "secretsmanager:GetSecretValue"
      ],
      "Resource": [
        "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/db-??????",
        "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/kafka-*"
      ]
    }
  ]
}`},
	}
	if diff := cmp.Diff(want, in.CloudPolicies()); diff != "" {
		t.Error(diff)
	}

	full := All().ParseFile("/aws.yaml", []byte(fullAWS), sound).Integration.CloudPolicies()
	for i, parts := range [][]string{
		{`"AWS": "arn:aws:iam::999999999999:role/broker"`, `"sts:TagSession"`, `"sts:SetSourceIdentity"`, `"sts:ExternalId": "5d1c7a52-`},
		{"secretsmanager:DescribeSecret", "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/*", "arn:aws:secretsmanager:us-east-1:123456789012:secret:*", "arn:aws:secretsmanager:eu-west-1:210987654321:secret:*"},
		{`"arn:aws:iam::<ACCOUNT>:role/<THE BROKER'S ROLE>"`, `"sts:ExternalId": "5d1c7a52-`},
		{`"sqs:ReceiveMessage",`, `"sqs:DeleteMessage",`, `"sqs:GetQueueAttributes"`, `"arn:aws:sqs:eu-west-1:210987654321:secret-events"`},
		{`"Service": "events.amazonaws.com"`, `"sqs:SendMessage"`, `"aws:SourceArn": "arn:aws:events:eu-west-1:210987654321:rule/secret-events"`},
		{`"source": [`, `"aws.secretsmanager"`, `"detail-type": [`, `"Secret Label Updated"`},
	} {
		for _, part := range parts {
			if !strings.Contains(full[i].JSON, part) {
				t.Errorf("the %s lacks %s", full[i].Title, part)
			}
		}
	}

	ungranted := All().ParseFile("/x.yaml", []byte(soundAWS), sound).Integration
	if got := ungranted.CloudPolicies(); len(got) != 1 {
		t.Errorf("without grants: %v", got)
	}
	if got := (&integration.Integration{}).CloudPolicies(); got != nil {
		t.Errorf("of another kind: %v", got)
	}
}

// TestAWSGuide: the guide creates what the broker prints for the guide's integration.
func TestAWSGuide(t *testing.T) {
	data, err := os.ReadFile("../../../docs/integrations/aws-secrets-manager.md")
	if err != nil {
		t.Fatal(err)
	}
	_, guide, _ := strings.Cut(string(data), "## Events\n")
	_, document, _ := strings.Cut(guide, "```yaml\n")
	document, _, _ = strings.Cut(document, "```")
	in := All().ParseFile("/x.yaml", []byte(document), sound)
	if err := in.Faults.Err(); err != nil {
		t.Fatal(err)
	}
	printed := make(map[string]string)
	for _, p := range in.Integration.CloudPolicies() {
		printed[p.ID] = p.JSON
	}
	decode := func(text string) (v any) {
		t.Helper()
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		return v
	}
	for file, id := range map[string]string{"queue.json": "AWS_EVENTS_QUEUE_POLICY", "pattern.json": "AWS_EVENTS_RULE", "receive.json": "AWS_EVENTS_PERMISSIONS_POLICY"} {
		_, text, _ := strings.Cut(guide, "cat >"+file+" <<END\n")
		text, _, _ = strings.Cut(text, "END\n")
		text = strings.NewReplacer("$REGION", "eu-west-1", "$ACCOUNT", "123456789012").Replace(text)
		if diff := cmp.Diff(lists(decode(printed[id])), lists(decode(text))); diff != "" {
			t.Errorf("%s is not the printed document %s:\n%s", file, id, diff)
		}
	}
}

// lists returns a policy in which a list of one element is that element, as IAM treats it.
func lists(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name := range v {
			v[name] = lists(v[name])
		}
	case []any:
		if len(v) == 1 {
			return lists(v[0])
		}
	}
	return v
}
