package awssm

import (
	"context"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/secretbroker/secretbroker/internal/provider"
)

// Check implements provider.EventSource. It requests the attributes of the queue, and
// receives no message: SQS counts each delivery, and would not deliver the message to
// another receiver for a while.
func (q *queue) Check(ctx context.Context) []provider.Step {
	var steps []provider.Step
	events := provider.Step{Step: provider.StepEvents, Store: q.to.QueueURL}
	if q.to.ownsIdentity() {
		session := provider.Step{Step: provider.StepSession, Found: "the credential for events provides keys"}
		if q.id.role != nil {
			session.Found = "STS issued a session of the role for events"
		}
		if _, err := q.sessions.Get(ctx); err != nil {
			session.Found, session.Err = "", explainGet(ctx, err)
			events.Skipped = true
			return []provider.Step{session, events}
		}
		steps = append(steps, session)
	}
	var out *sqs.GetQueueAttributesOutput
	err := q.request(ctx, func(sign func(*sqs.Options)) (err error) {
		out, err = q.client.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{QueueUrl: &q.to.QueueURL, AttributeNames: checked}, sign)
		return err
	})
	if err != nil {
		events.Err = q.explain(ctx, "sqs:GetQueueAttributes", err)
	} else {
		events.Found = findings(out.Attributes)
	}
	return append(steps, events)
}

// checked are the attributes that Check requests.
var checked = []types.QueueAttributeName{
	types.QueueAttributeNameApproximateNumberOfMessages, types.QueueAttributeNamePolicy,
	types.QueueAttributeNameRedrivePolicy, types.QueueAttributeNameKmsMasterKeyId,
}

// awsManagedKey is the KMS key that AWS manages for SQS. Its policy does not permit
// EventBridge to use it, and cannot be changed.
const awsManagedKey = "alias/aws/sqs"

// findings describes a queue by its attributes.
func findings(attributes map[string]string) string {
	found := []string{"the queue exists"}
	of := func(name types.QueueAttributeName) string { return attributes[string(name)] }
	if n := of(types.QueueAttributeNameApproximateNumberOfMessages); isNumber(n) {
		found = append(found, "messages waiting: about "+n)
	}
	if of(types.QueueAttributeNamePolicy) == "" {
		found = append(found, "it has no policy, so an EventBridge rule can send to it only with a role")
	}
	if of(types.QueueAttributeNameRedrivePolicy) == "" {
		found = append(found, "it has no dead-letter queue, which the broker does not need")
	}
	if strings.HasSuffix(of(types.QueueAttributeNameKmsMasterKeyId), awsManagedKey) {
		found = append(found, "it is encrypted with the KMS key "+awsManagedKey+", which EventBridge cannot use; use SSE-SQS or a customer-managed key")
	}
	return strings.Join(found, "; ") + ". Receiving and deleting were skipped, because that would take messages away: sqs:ReceiveMessage and sqs:DeleteMessage are not tested"
}

// isNumber reports whether s is a number of at most 18 digits.
func isNumber(s string) bool {
	return s != "" && len(s) <= 18 && strings.Trim(s, "0123456789") == ""
}
