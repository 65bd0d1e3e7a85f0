package azurekv

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"

	"github.com/secretbroker/secretbroker/internal/provider/egress"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// queueRole is the role that permits to look at messages, receive and delete them.
const queueRole = "Storage Queue Data Message Processor"

// queueAdvice names the settings that fix outages of queues.
var queueAdvice = egress.Advice{CAFile: "azure.ca_file", PrivateEndpoint: "azure.private_endpoint or azure.dial", Store: "storage account"}

// explain returns the error for a failed request to the queue. As with explainRead, no error
// of the SDK becomes a cause, because it may quote the response.
func (q *queue) explain(ctx context.Context, err error) error {
	var known *secret.Error
	if errors.As(err, &known) { // from the tokenSource
		return known
	}
	var re *azcore.ResponseError
	if errors.As(err, &re) {
		return q.explainAnswer(parseErrorAnswer(re))
	}
	if errors.Is(err, storeerror.ErrClosed) {
		return storeerror.Closed()
	}
	if cut := ctx.Err(); cut != nil {
		return secret.Errorf(secret.ReasonStoreUnavailable, "the request to the queue on %s did not finish in time", q.host).WithCause(cut)
	}
	o := egress.OutageOf(err, queueAdvice)
	switch {
	case o.Text == "", errors.As(err, new(egress.AnswerError)):
		return q.unexpected("not a response of Azure Storage").WithCause(o.Cause)
	case o.MissingHost == q.host:
		return secret.Errorf(secret.ReasonStoreNotFound, "there is no storage account %s: its name does not exist in the DNS; check azure.events.queue_url", q.host).WithCause(o.Cause)
	default:
		return secret.Errorf(secret.ReasonStoreUnavailable, "the queue on %s %s", q.host, o.Text).WithCause(o.Cause)
	}
}

// explainAnswer returns the error for a response with an error. Source of the codes: Azure
// Storage, "Queue storage error codes" and "Common REST API error codes".
func (q *queue) explainAnswer(a *errorAnswer) *secret.Error {
	e := &secret.Error{Cause: a}
	switch {
	case a.status == http.StatusNotFound:
		e.Reason = secret.ReasonStoreNotFound
		e.Message = fmt.Sprintf("there is no queue %s; create it, or fix azure.events.queue_url", q.url)
	case a.status == http.StatusUnauthorized, a.code == "AuthenticationFailed":
		e.Reason = secret.ReasonStoreAuthenticationFailed
		e.Message = fmt.Sprintf("the queue on %s refuses the access token of %s; check that %s is the tenant of the storage account's subscription and that the clocks are correct",
			q.host, q.who, q.id.setting("tenant_id"))
	case a.status == http.StatusForbidden:
		e.Reason = secret.ReasonStoreAccessDenied
		e.Message = q.forbidden(a.code)
	case a.status == http.StatusTooManyRequests, a.code == "ServerBusy":
		e.Reason, e.RetryAfter = secret.ReasonStoreThrottled, a.retryAfter
		e.Message = fmt.Sprintf("the queue on %s throttles the broker; wait", q.host)
		if e.RetryAfter == 0 {
			e.RetryAfter = storeerror.DefaultRetryAfter
		}
	case a.status >= 500 || a.status == http.StatusRequestTimeout:
		e.Reason, e.RetryAfter = secret.ReasonStoreUnavailable, a.retryAfter
		e.Message = fmt.Sprintf("the queue on %s is failing (HTTP %d); wait", q.host, a.status)
	default:
		return q.unexpected(fmt.Sprintf("HTTP %d", a.status)).WithCause(a)
	}
	return e
}

func (q *queue) forbidden(code string) string {
	switch code {
	case "AuthorizationPermissionMismatch":
		return fmt.Sprintf("%s may not receive the messages of the queue %s; assign it the role %q on the queue (a new role takes some minutes to take effect)", q.who, q.url, queueRole)
	case "AuthorizationFailure":
		return fmt.Sprintf("the network rules of the storage account %s block the broker; allow the broker's network, or let it reach the account through a private endpoint", q.host)
	default:
		return fmt.Sprintf("the queue %s denies %s access; check its role (%q) and the storage account's network rules", q.url, q.who, queueRole)
	}
}

func (q *queue) unexpected(what string) *secret.Error {
	return secret.Errorf(secret.ReasonStoreUnavailable,
		"the server that responds as the queue on %s sent something else (%s); check for a proxy or gateway between the broker and the queue", q.host, what)
}
