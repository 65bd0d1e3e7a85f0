package integration

import (
	"encoding/json"
	"slices"
	"strings"
)

// CloudPolicy is a document that an integration needs at its cloud, to paste.
type CloudPolicy struct {
	// Title says what it is and where it belongs.
	Title string
	// JSON is indented. It holds no secret. Words in capital letters between angle
	// brackets are for people to fill in.
	JSON string
}

type awsStatement struct {
	Effect    string
	Principal map[string]string            `json:",omitempty"`
	Action    []string                     `json:",omitempty"`
	Resource  []string                     `json:",omitempty"`
	Condition map[string]map[string]string `json:",omitempty"`
}

// CloudPolicies returns what has to stand at the cloud for the integration to
// work and to read no more than its grants give: for a role of AWS its trust
// policy and its permissions. It is empty for other kinds.
func (in *Integration) CloudPolicies() []CloudPolicy {
	if in.AWS == nil || in.AWS.Role == nil {
		return nil
	}
	policies := []CloudPolicy{{
		Title: "trust policy of the role " + in.AWS.Role.ARN,
		JSON:  awsDocument(in.AWS.trust()...),
	}}
	if resources := in.awsResources(); len(resources) > 0 {
		actions := []string{"secretsmanager:GetSecretValue"}
		if in.AWS.RotationDates {
			actions = append(actions, "secretsmanager:DescribeSecret")
		}
		policies = append(policies, CloudPolicy{
			Title: "permissions of the role " + in.AWS.Role.ARN,
			JSON:  awsDocument(awsStatement{Effect: "Allow", Action: actions, Resource: resources}),
		})
	}
	return policies
}

// trust are the statements by which the role lets the credential assume it, with
// the external ID and in no other way.
func (a *AWS) trust() []awsStatement {
	// Who the credential is, its type says in one case only.
	who := "arn:" + strings.Split(a.Role.ARN, ":")[1] + ":iam::<ACCOUNT>:role/<THE BROKER'S ROLE>"
	if a.Credential.Type == AWSWebIdentity {
		who = a.Credential.RoleARN
	}
	principal := map[string]string{"AWS": who}
	statements := []awsStatement{{
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
		statements = append(statements, awsStatement{Effect: "Allow", Principal: principal, Action: more})
	}
	return statements
}

// awsResources are the ARNs of what the grants give. AWS puts a hyphen and six
// characters behind a name; "?" stands for one of them.
func (in *Integration) awsResources() []string {
	var resources []string
	for _, rule := range in.Policy.Rules() {
		if awsAccount(rule.Store) == "" {
			continue // the same secrets by another name
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

func awsDocument(statements ...awsStatement) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(struct {
		Version   string
		Statement []awsStatement
	}{"2012-10-17", statements})
	if err != nil { // texts and lists of them
		panic("registry: a policy that cannot be written: " + err.Error())
	}
	return strings.TrimSpace(b.String())
}
