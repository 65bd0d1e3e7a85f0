package awssm

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
)

type statement struct {
	Effect    string
	Principal map[string]string            `json:",omitempty"`
	Action    []string                     `json:",omitempty"`
	Resource  []string                     `json:",omitempty"`
	Condition map[string]map[string]string `json:",omitempty"`
}

// CloudPolicies returns the trust policy and the permissions of the role, if there is one,
// and the policies of the source of events, if there is one.
func (a *Settings) CloudPolicies(grants *authz.Policy) []integration.CloudPolicy {
	return append(a.readPolicies(grants), a.eventPolicies()...)
}

func (a *Settings) readPolicies(grants *authz.Policy) []integration.CloudPolicy {
	if a.Role == nil {
		return nil
	}
	policies := []integration.CloudPolicy{{
		ID:    "AWS_TRUST_POLICY",
		Title: "trust policy of the role " + a.Role.ARN,
		JSON:  document(a.identity().trust()...),
	}}
	if allowed := resources(grants); len(allowed) > 0 {
		actions := []string{"secretsmanager:GetSecretValue"}
		if a.RotationDates {
			actions = append(actions, "secretsmanager:DescribeSecret")
		}
		policies = append(policies, integration.CloudPolicy{
			ID:    "AWS_PERMISSIONS_POLICY",
			Title: "permissions of the role " + a.Role.ARN,
			JSON:  document(statement{Effect: "Allow", Action: actions, Resource: allowed}),
		})
	}
	return policies
}

// trust returns the statements that permit the credential to assume the role, only
// with the external ID.
func (id identity) trust() []statement {
	// Only one type of credential determines the identity of the broker.
	who := "arn:" + strings.Split(id.role.ARN, ":")[1] + ":iam::<ACCOUNT>:role/<THE BROKER'S ROLE>"
	if id.credential.Type == WebIdentity {
		who = id.credential.RoleARN
	}
	principal := map[string]string{"AWS": who}
	statements := []statement{{
		Effect: "Allow", Principal: principal, Action: []string{"sts:AssumeRole"},
		Condition: map[string]map[string]string{"StringEquals": {"sts:ExternalId": id.role.ExternalID}},
	}}
	var more []string
	if len(id.role.Tags) > 0 {
		more = append(more, "sts:TagSession")
	}
	if id.role.SourceIdentity != "" {
		more = append(more, "sts:SetSourceIdentity")
	}
	if more != nil {
		statements = append(statements, statement{Effect: "Allow", Principal: principal, Action: more})
	}
	return statements
}

// resources returns the ARNs of the secrets that the grants permit. AWS appends a
// hyphen and six characters to a name; each "?" matches one of them.
func resources(grants *authz.Policy) []string {
	var resources []string
	for _, rule := range grants.Rules() {
		if accountOf(rule.Store) == "" {
			continue // the same secrets under another name
		}
		name := rule.Secret
		if !strings.HasSuffix(name, "*") {
			name += "-??????"
		}
		resources = append(resources, rule.Store+":secret:"+name)
	}
	slices.Sort(resources)
	return slices.Compact(resources)
}

// eventPolicies returns what the source of events requires: the permissions of the identity
// that receives, the queue's policy, and the pattern of the rule that sends to it.
func (a *Settings) eventPolicies() []integration.CloudPolicy {
	e := a.Events
	if e == nil {
		return nil
	}
	id, who := a.eventsIdentity(), "the identity that receives events"
	var policies []integration.CloudPolicy
	if id.role != nil {
		who = "the role " + id.role.ARN
	}
	if e.Role != nil {
		policies = append(policies, integration.CloudPolicy{
			ID: "AWS_EVENTS_TRUST_POLICY", Title: "trust policy of " + who, JSON: document(id.trust()...),
		})
	}
	arn := e.arn()
	rule := strings.Replace(strings.TrimSuffix(arn, e.Queue), ":sqs:", ":events:", 1) + "rule/" + e.rule()
	return append(policies,
		integration.CloudPolicy{
			ID: "AWS_EVENTS_PERMISSIONS_POLICY", Title: "permissions of " + who + " for the queue " + e.Queue,
			JSON: document(statement{Effect: "Allow", Action: []string{"sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"}, Resource: []string{arn}}),
		},
		integration.CloudPolicy{
			ID: "AWS_EVENTS_QUEUE_POLICY", Title: "policy of the queue " + e.Queue + ": only the EventBridge rule " + e.rule() + " may send to it",
			JSON: document(statement{
				Effect: "Allow", Principal: map[string]string{"Service": "events.amazonaws.com"}, Action: []string{"sqs:SendMessage"}, Resource: []string{arn},
				Condition: map[string]map[string]string{"ArnEquals": {"aws:SourceArn": rule}},
			}),
		},
		integration.CloudPolicy{
			ID: "AWS_EVENTS_RULE", Title: "event pattern of the EventBridge rule " + e.rule() + " on the default event bus in " + e.Region,
			JSON: indented(struct {
				Source     []string `json:"source"`
				DetailType []string `json:"detail-type"`
			}{[]string{"aws.secretsmanager"}, []string{labelUpdated}}),
		},
	)
}

// maxRuleName is the maximum length of the name of a rule.
const maxRuleName = 64

// rule returns the suggested name of the EventBridge rule: that of the queue.
func (e *Events) rule() string { return e.Queue[:min(len(e.Queue), maxRuleName)] }

func document(statements ...statement) string {
	return indented(struct {
		Version   string
		Statement []statement
	}{"2012-10-17", statements})
}

func indented(v any) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil { // cannot happen: the document consists of strings and lists
		panic("awssm: a policy that cannot be written: " + err.Error())
	}
	return strings.TrimSpace(b.String())
}
