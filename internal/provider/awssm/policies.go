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

// CloudPolicies returns the trust policy and the permissions of the role. It returns
// nothing if there is no role.
func (a *Settings) CloudPolicies(grants *authz.Policy) []integration.CloudPolicy {
	if a.Role == nil {
		return nil
	}
	policies := []integration.CloudPolicy{{
		ID:    "AWS_TRUST_POLICY",
		Title: "trust policy of the role " + a.Role.ARN,
		JSON:  document(a.trust()...),
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
func (a *Settings) trust() []statement {
	// Only one type of credential determines the identity of the broker.
	who := "arn:" + strings.Split(a.Role.ARN, ":")[1] + ":iam::<ACCOUNT>:role/<THE BROKER'S ROLE>"
	if a.Credential.Type == WebIdentity {
		who = a.Credential.RoleARN
	}
	principal := map[string]string{"AWS": who}
	statements := []statement{{
		Effect: "Allow", Principal: principal, Action: []string{"sts:AssumeRole"},
		Condition: map[string]map[string]string{"StringEquals": {"sts:ExternalId": a.Role.ExternalID}},
	}}
	var more []string
	if len(a.Role.Tags) > 0 {
		more = append(more, "sts:TagSession")
	}
	if a.Role.SourceIdentity != "" {
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

func document(statements ...statement) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(struct {
		Version   string
		Statement []statement
	}{"2012-10-17", statements})
	if err != nil { // cannot happen: the document consists of strings and lists
		panic("awssm: a policy that cannot be written: " + err.Error())
	}
	return strings.TrimSpace(b.String())
}
