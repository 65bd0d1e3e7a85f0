package vaultkv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/provider/egress"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// The server's error texts may repeat parts of the request. The errors of this
// package therefore contain only the status of an error response.

var advice = egress.Advice{CAFile: "vault.ca_file", PrivateEndpoint: "vault.private_endpoint or vault.dial", Store: "Vault"}

// isDenied reports whether the server answered 403.
func isDenied(err error) bool {
	var e *statusError
	return errors.As(err, &e) && e.status == http.StatusForbidden
}

// explainRead returns the error for a failed read.
func explainRead(ctx context.Context, host string, err error) *secret.Error {
	var known *secret.Error
	if errors.As(err, &known) {
		return known
	}
	var size *egress.SizeError
	if errors.As(err, &size) && size.Success {
		return secret.Errorf(secret.ReasonSecretTooLarge,
			"the response of Vault %s with the secret is larger than %d bytes, the most that the broker reads; store a smaller secret", host, size.Limit).WithCause(size)
	}
	var e *statusError
	if !errors.As(err, &e) {
		return explainOutage(ctx, host, "Vault", err)
	}
	switch e.status {
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return explainMissing(host, e)
	case http.StatusForbidden:
		return secret.Errorf(secret.ReasonStoreAccessDenied,
			"Vault %s denies the integration's identity access to the secret, or has no such mount; grant the capability \"read\" in its policy on the path (for KV version 2, with data/ after the mount)", host).WithCause(storeerror.NameDenied(e))
	default:
		return explainStatus(host, "Vault", e)
	}
}

func explainMissing(host string, e *statusError) *secret.Error {
	if e.gone != nil {
		var d kv2Data
		if json.Unmarshal(e.gone.Data, &d) == nil && d.Metadata.Version > 0 {
			if err := d.gone(host, time.Now()); err != nil {
				return secret.AsError(err).WithCause(e)
			}
		}
	}
	if e.misplaced {
		return secret.Errorf(secret.ReasonSecretNotFound, "the mount in Vault %s is of KV version 2; set its engine to kv2 in vault.mounts", host).WithCause(e)
	}
	return secret.Errorf(secret.ReasonSecretNotFound,
		"Vault %s has no secret at that path, or the secret has no such version; fix the reference, and leave out data/ after the mount", host).WithCause(e)
}

// explainLogin returns the error for a failed login.
func explainLogin(ctx context.Context, host string, auth Auth, err error) *secret.Error {
	var known *secret.Error
	if errors.As(err, &known) {
		return known
	}
	who := "the login to Vault"
	var e *statusError
	if !errors.As(err, &e) {
		return explainOutage(ctx, host, who, err)
	}
	switch e.status {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
		return storeerror.Setup("Vault %s refuses the integration's credential (HTTP %d); check vault.auth: type %s, mount, role and files, and that the credential has not expired", host, e.status, auth.Type).WithCause(e)
	default:
		return explainStatus(host, who, e)
	}
}

// explainStatus returns the error for a status that means the same for reads and
// logins.
func explainStatus(host, who string, err *statusError) *secret.Error {
	e := &secret.Error{Reason: secret.ReasonStoreUnavailable, Cause: err, RetryAfter: err.retryAfter}
	switch {
	case err.status == http.StatusTooManyRequests:
		e.Reason, e.Message = secret.ReasonStoreThrottled, fmt.Sprintf("%s %s is throttled by a rate limit of the server; wait", who, host)
		if e.RetryAfter == 0 {
			e.RetryAfter = storeerror.DefaultRetryAfter
		}
	case err.status == http.StatusServiceUnavailable:
		e.Message = fmt.Sprintf("%s %s is sealed, or not ready; unseal it", who, host)
	case err.status >= 500:
		e.Message = fmt.Sprintf("%s %s is failing (HTTP %d); look at its log", who, host, err.status)
	case err.status >= 300 && err.status < 400:
		e.Message = fmt.Sprintf("%s %s sent a redirect, which the broker does not follow; set vault.address to a name that leads to the active node", who, host)
		e.Cause = storeerror.Answered(err)
	default:
		return unexpectedResponse(host, fmt.Sprintf("HTTP %d", err.status))
	}
	return e
}

// explainOutage returns the error for a request that got no usable response.
func explainOutage(ctx context.Context, host, who string, err error) *secret.Error {
	if cut := ctx.Err(); cut != nil {
		return secret.Errorf(secret.ReasonStoreUnavailable, "%s %s did not finish before the request's deadline", who, host).WithCause(cut)
	}
	o := egress.OutageOf(err, advice)
	switch {
	case errors.As(err, new(egress.AnswerError)):
		return unexpectedResponse(host, "not a Vault response")
	case o.MissingHost != "" && o.MissingHost == hostname(host): // the store's own name, not a proxy's
		return secret.Errorf(secret.ReasonStoreNotFound, "there is no server %s: its name does not exist in the DNS; check vault.address", host).WithCause(o.Cause)
	case o.Text == "":
		o.Text = "cannot be reached"
	}
	return secret.Errorf(secret.ReasonStoreUnavailable, "%s %s %s", who, host, o.Text).WithCause(o.Cause)
}

// hostname returns host without its port.
func hostname(host string) string {
	name, _, _ := strings.Cut(host, ":")
	return name
}

func unexpectedResponse(host, what string) *secret.Error {
	return secret.Errorf(secret.ReasonStoreUnavailable,
		"the server that responds as Vault %s sent something other than the secret (%s); check for a proxy or gateway between the broker and the server", host, what).WithCause(storeerror.ErrAnswered)
}

// jsonObject decodes raw into to and reports whether raw is a JSON object.
func jsonObject(raw json.RawMessage, to any) bool {
	return isObject(raw) && json.Unmarshal(raw, to) == nil
}
