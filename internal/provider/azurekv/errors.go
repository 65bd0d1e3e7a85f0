package azurekv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"

	"github.com/secretbroker/secretbroker/internal/provider/egress"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// The SDK's errors quote whole responses. An error page may repeat the request's
// token, and a 200 response that cannot be decoded contains the secret. Therefore no
// SDK error becomes a cause: this package builds causes from statuses, codes and
// identifiers.

// advice names the settings that fix outages of vaults and login authorities.
var advice = egress.Advice{CAFile: "azure.ca_file", PrivateEndpoint: "azure.private_endpoint or azure.dial", Store: "vault"}

// worthRetrying is the SDK's retry condition for vaults and the login authority. It
// accepts failures that a second attempt moments later may fix. It excludes timeouts,
// which have already used up their time, and throttling, which the caller waits out.
func worthRetrying(resp *http.Response, err error) bool {
	if err != nil {
		return egress.OutageOf(err, advice).Transient
	}
	switch resp.StatusCode {
	case http.StatusRequestTimeout, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	default:
		return false
	}
}

// refusedToken reports whether the vault's last response was a 401 that another token may
// avoid.
func refusedToken(err error) bool {
	var re *azcore.ResponseError
	return errors.As(err, &re) && re.StatusCode == http.StatusUnauthorized && !parseErrorAnswer(re).transient()
}

// keysUnavailable is the code with which Key Vault answers a valid token while it cannot
// load the keys of the login authority. Source: Key Vault, "Azure Key Vault REST API error
// codes".
const keysUnavailable = "AKV10046"

// transient reports whether a 401 says nothing about the token.
func (a *errorAnswer) transient() bool {
	return a.status == http.StatusUnauthorized && a.detail == keysUnavailable
}

// explainRead returns the error for a failed read of the vault at host.
func explainRead(ctx context.Context, host string, err error) *secret.Error {
	var known *secret.Error
	if errors.As(err, &known) { // from the tokenSource
		return known
	}
	var re *azcore.ResponseError
	if errors.As(err, &re) {
		return explainAnswer(host, re)
	}
	if errors.Is(err, storeerror.ErrClosed) {
		return storeerror.Closed()
	}
	if cut := ctx.Err(); cut != nil {
		return secret.Errorf(secret.ReasonStoreUnavailable, "reading from vault %s did not finish before the request's deadline", host).WithCause(cut)
	}
	o := egress.OutageOf(err, advice)
	switch {
	case o.Text == "":
		return unexpectedResponse(host, "not a Key Vault response").WithCause(o.Cause)
	case o.MissingHost == host:
		return secret.Errorf(secret.ReasonStoreNotFound, "there is no vault %s: its name does not exist in the DNS; check the vault's name", host).WithCause(o.Cause)
	default:
		return secret.Errorf(secret.ReasonStoreUnavailable, "vault %s %s", host, o.Text).WithCause(o.Cause)
	}
}

// explainAnswer returns the error for a response other than 200.
func explainAnswer(host string, re *azcore.ResponseError) *secret.Error {
	a := parseErrorAnswer(re)
	e := &secret.Error{Cause: a}
	switch {
	case a.status == http.StatusNotFound:
		e.Reason = secret.ReasonSecretNotFound
		e.Message = fmt.Sprintf("vault %s has no secret with that name, or the secret has no such version; fix the reference", host)
	case a.status == http.StatusForbidden:
		return explainForbidden(host, a)
	case a.transient():
		e.Reason, e.RetryAfter = secret.ReasonStoreUnavailable, a.retryAfter
		e.Message = fmt.Sprintf("vault %s could not check the access token (%s); wait", host, a.detail)
	case a.status == http.StatusUnauthorized:
		e.Reason = secret.ReasonStoreAuthenticationFailed
		e.Message = fmt.Sprintf("vault %s refuses the access token of the integration's identity; check that azure.tenant_id is the vault's tenant and that the clocks are correct", host)
	case a.status == http.StatusTooManyRequests:
		e.Reason, e.RetryAfter = secret.ReasonStoreThrottled, a.retryAfter
		e.Message = fmt.Sprintf("vault %s throttles the broker; wait", host)
		if e.RetryAfter == 0 {
			e.RetryAfter = storeerror.DefaultRetryAfter
		}
	case a.status >= 500 || a.status == http.StatusRequestTimeout:
		e.Reason, e.RetryAfter = secret.ReasonStoreUnavailable, a.retryAfter
		e.Message = fmt.Sprintf("vault %s is failing (HTTP %d); wait", host, a.status)
	case a.status >= 300 && a.status < 400:
		e.Reason = secret.ReasonStoreUnavailable
		e.Message = fmt.Sprintf("vault %s sent a redirect, which the broker does not follow; check for a proxy or gateway between the broker and the vault", host)
	default:
		return unexpectedResponse(host, fmt.Sprintf("HTTP %d", a.status)).WithCause(a)
	}
	return e
}

func explainForbidden(host string, a *errorAnswer) *secret.Error {
	e := &secret.Error{Reason: secret.ReasonStoreAccessDenied, Cause: a}
	switch strings.ToLower(a.inner) {
	case "secretdisabled":
		return disabled(host).WithCause(a)
	case "forbiddenbyrbac":
		e.Cause = storeerror.NameDenied(a)
		e.Message = fmt.Sprintf(`the integration's identity may not read secrets of vault %s; assign it the role "Key Vault Secrets User" on the vault or on the secret`, host)
	case "accessdenied", "forbiddenbypolicy":
		e.Message = fmt.Sprintf(`the access policy of vault %s gives the integration's identity no secret permission "Get"; add it`, host)
	case "forbiddenbyfirewall":
		e.Message = fmt.Sprintf("the firewall of vault %s blocks the broker; allow the broker's network", host)
	case "forbiddenbyconnection":
		e.Message = fmt.Sprintf("vault %s does not accept connections from public networks; let the broker reach it through a private endpoint", host)
	default:
		e.Cause = storeerror.NameDenied(a)
		e.Message = fmt.Sprintf(`vault %s denies the integration's identity access; check its role ("Key Vault Secrets User") or access policy, and the vault's firewall`, host)
	}
	return e
}

func disabled(host string) *secret.Error {
	return secret.Errorf(secret.ReasonSecretDisabled, "the secret in vault %s is disabled; enable this version, or set a new one", host)
}

func unexpectedResponse(host, what string) *secret.Error {
	return secret.Errorf(secret.ReasonStoreUnavailable,
		"the server that responds as vault %s sent something other than the secret (%s); check for a proxy or gateway between the broker and the vault", host, what)
}

// errorAnswer holds the parts of an error response that are safe to log. It contains
// no free text of the server.
type errorAnswer struct {
	status       int
	code, inner  string
	detail       string // Key Vault's own code at the beginning of the message, such as AKV10046
	requestID    string
	appID, objID string // the identity that was denied
	retryAfter   time.Duration
}

func (a *errorAnswer) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "HTTP %d", a.status)
	for _, f := range []struct{ name, text string }{
		{"code", a.code}, {"inner code", a.inner}, {"detail", a.detail}, {"request id", a.requestID}, {"appid", a.appID}, {"oid", a.objID},
	} {
		if f.text != "" {
			fmt.Fprintf(&b, ", %s %s", f.name, f.text)
		}
	}
	return b.String()
}

var (
	vaultCode   = regexp.MustCompile(`^AKV[0-9]{5}\b`)
	callerAppID = regexp.MustCompile(`(?i)\bappid=([0-9a-f-]{36})\b`)
	callerObjID = regexp.MustCompile(`(?i)\boid=([0-9a-f-]{36})\b`)
)

func parseErrorAnswer(re *azcore.ResponseError) *errorAnswer {
	a := &errorAnswer{status: re.StatusCode, code: storeerror.Plain(re.ErrorCode)}
	if re.RawResponse == nil {
		return a
	}
	a.requestID = storeerror.Plain(re.RawResponse.Header.Get("x-ms-request-id"))
	a.retryAfter = retryAfter(re.RawResponse.Header)
	body, err := runtime.Payload(re.RawResponse)
	if err != nil || re.StatusCode < 300 {
		return a
	}
	var doc struct { // encoding/json ignores case, so this matches both innererror and innerError
		Error struct {
			Message    string
			InnerError struct{ Code string }
		}
	}
	if json.Unmarshal(body, &doc) != nil {
		return a
	}
	a.inner = storeerror.Plain(doc.Error.InnerError.Code)
	a.detail = vaultCode.FindString(doc.Error.Message)
	if m := callerAppID.FindStringSubmatch(doc.Error.Message); m != nil {
		a.appID = m[1]
	}
	if m := callerObjID.FindStringSubmatch(doc.Error.Message); m != nil {
		a.objID = m[1]
	}
	return a
}

// retryAfter returns how long the response's headers ask the client to wait, at most
// storeerror.MaxRetryAfter. It returns zero if they do not.
func retryAfter(h http.Header) time.Duration {
	wait := time.Duration(0)
	for _, f := range []struct {
		name string
		unit time.Duration
	}{{"retry-after-ms", time.Millisecond}, {"x-ms-retry-after-ms", time.Millisecond}, {"Retry-After", time.Second}} {
		v := h.Get(f.name)
		if n, err := strconv.ParseUint(v, 10, 32); err == nil && n > 0 {
			wait = time.Duration(n) * f.unit
			break
		}
		if at, err := http.ParseTime(v); err == nil && f.unit == time.Second {
			wait = max(0, time.Until(at))
		}
	}
	return min(wait, storeerror.MaxRetryAfter)
}
