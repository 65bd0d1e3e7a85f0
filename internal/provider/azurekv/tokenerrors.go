package azurekv

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/secretbroker/secretbroker/internal/provider/egress"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// aadstsAdvice maps Entra ID's error codes for service credentials to advice. Source:
// Microsoft Entra authentication and authorization error codes.
var aadstsAdvice = map[string]string{
	"AADSTS7000215": "the client secret is wrong; put the secret's value, not its id, into azure.credential.client_secret_file",
	"AADSTS7000222": "the client secret has expired; create a new one and put its value into azure.credential.client_secret_file",
	"AADSTS700016":  "the tenant has no such application; check azure.client_id and azure.tenant_id",
	"AADSTS7000112": "the application is disabled; enable it, or use another",
	"AADSTS90002":   "there is no such tenant; check azure.tenant_id and azure.authority_host",
	"AADSTS900023":  "azure.tenant_id is not a tenant's id",
	"AADSTS700027":  "the certificate is not, or no longer, registered with the application, or has expired; check azure.credential.certificate_file",
	"AADSTS700024":  "the federated token or assertion is not valid at this time; check azure.credential.token_file and the clocks",
	"AADSTS70021":   "no federated credential of the application matches the token; check its issuer, subject and audience",
	"AADSTS700211":  "no federated credential of the application has the token's issuer; check it",
	"AADSTS700212":  "no federated credential of the application has the token's audience; check it",
	"AADSTS700213":  "no federated credential of the application has the token's subject; check it",
	"AADSTS500011":  "the tenant does not know the service that the token is for; check azure.tenant_id and azure.authority_host",
	"AADSTS53003":   "a Conditional Access policy blocks the application; exempt it",
}

func wrongTenant(asked string) *secret.Error {
	return secret.Errorf(secret.ReasonStoreAuthenticationFailed,
		"the vault belongs to another tenant than the integration's identity; set azure.tenant_id to the id of the vault's tenant").
		WithCause(fmt.Errorf("the vault asks for tenant %q", storeerror.Plain(asked)))
}

// explainToken returns the error for a failed acquisition under ctx. It uses the
// result of the last exchange, and looks at the SDK's error only if there was no
// exchange.
func explainToken(ctx context.Context, id identity, timeout time.Duration, err error, seen *trace) *secret.Error {
	e := *explainAcquisition(ctx, id.credential.Type, timeout, err, seen)
	e.Message = id.named(e.Message)
	return &e
}

// explainAcquisition is explainToken for the integration's own identity.
func explainAcquisition(ctx context.Context, kind CredentialType, timeout time.Duration, err error, seen *trace) *secret.Error {
	var known *secret.Error
	if errors.As(err, &known) { // an error about a file of the credential
		return known
	}
	who := "the login authority (azure.authority_host)"
	if kind == ManagedIdentity {
		who = "the managed identity endpoint"
	}
	x := seen.get()
	switch cut := context.Cause(ctx); {
	case errors.Is(cut, context.DeadlineExceeded):
		return secret.Errorf(secret.ReasonStoreUnavailable, "%s did not issue an access token within %v", who, timeout).WithCause(errTimedOut)
	case cut != nil:
		return storeerror.Closed()
	case kind == DefaultCredential && !errors.As(err, new(*azidentity.AuthenticationFailedError)):
		return secret.Errorf(secret.ReasonStoreAuthenticationFailed,
			"the environment has none of the identities that the default credential looks for; set azure.credential.type to another type")
	case !x.made:
		return secret.Errorf(secret.ReasonStoreAuthenticationFailed,
			"the integration's credential cannot be used to request an access token; check azure.tenant_id, azure.client_id and the credential's files").WithCause(err)
	case x.err != nil:
		return loginOutage(kind, who, x.err)
	default:
		return loginAnswer(kind, who, x)
	}
}

func loginOutage(kind CredentialType, who string, err error) *secret.Error {
	o := egress.OutageOf(err, advice)
	switch {
	case kind == ManagedIdentity:
		o.Text = "cannot be reached; managed identities exist only on Azure and Azure Arc, and only where one is assigned"
	case o.Text == "":
		o.Text = "cannot be reached"
	case errors.As(err, new(egress.AnswerError)):
		o.Text = "sent something other than an access token; check for a proxy or gateway in between"
	}
	return secret.Errorf(secret.ReasonStoreUnavailable, "%s %s", who, o.Text).WithCause(o.Cause)
}

func loginAnswer(kind CredentialType, who string, x exchange) *secret.Error {
	e := &secret.Error{
		Reason: secret.ReasonStoreUnavailable,
		Cause:  fmt.Errorf("%s answered HTTP %d, code %q, request id %q", x.host, x.status, x.code, x.requestID),
	}
	switch {
	case x.status < 300:
		e.Message = who + " sent something other than an access token; check for a proxy or gateway in between"
	case x.status < 400:
		e.Message = who + " sent a redirect, which the broker does not follow; check for a proxy or gateway in between"
	case x.status == http.StatusTooManyRequests, x.status == http.StatusRequestTimeout, x.status >= 500:
		e.RetryAfter = x.retry
		e.Message = fmt.Sprintf("%s is failing (HTTP %d); wait", who, x.status)
	default:
		e.Reason = secret.ReasonStoreAuthenticationFailed
		e.Message = fmt.Sprintf("%s refuses the integration's credential (HTTP %d)", who, x.status)
		if kind == ManagedIdentity {
			e.Message += "; check that an identity is assigned to the machine and that azure.client_id, if set, names one of them"
		}
		if x.code != "" {
			e.Message = who + " refuses the integration's credential: " + x.code
			if advice, ok := aadstsAdvice[x.code]; ok {
				e.Message += ": " + advice
			}
		}
	}
	return e
}
