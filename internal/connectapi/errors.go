package connectapi

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"strconv"
)

// Kind says what a caller can do about an error.
type Kind string

// The kinds.
const (
	// Conflict: the workers are rebalancing; ask again later.
	Conflict Kind = "CONFLICT"
	// NotFound: there is no such connector.
	NotFound Kind = "NOT_FOUND"
	// Denied: the cluster refuses the credential, or the credential cannot be read.
	Denied Kind = "DENIED"
	// Unavailable: the cluster cannot be reached or fails; nothing was done.
	Unavailable Kind = "UNAVAILABLE"
	// Uncertain: a request to restart may or may not have arrived.
	Uncertain Kind = "UNCERTAIN"
	// Failed: anything else that only a person can resolve.
	Failed Kind = "FAILED"
)

// Error is the failure of a call. Its text quotes nothing that the cluster has sent.
type Error struct {
	Cluster string
	Kind    Kind
	// Status is the HTTP status, zero if there is none.
	Status int
	text   string
	cause  error
}

func (e *Error) Error() string { return "cluster " + strconv.Quote(e.Cluster) + ": " + e.text }

func (e *Error) Unwrap() error { return e.cause }

func (c *Client) fail(kind Kind, text string) *Error {
	return &Error{Cluster: c.cluster.Name, Kind: kind, text: text}
}

// refused returns the error for an unexpected status.
func (c *Client) refused(method string, status int) *Error {
	e := &Error{Cluster: c.cluster.Name, Status: status, Kind: Failed}
	code := strconv.Itoa(status)
	switch {
	case status == http.StatusConflict:
		e.Kind, e.text = Conflict, "the workers are rebalancing (409); the request is repeated later"
	case status == http.StatusNotFound:
		e.Kind, e.text = NotFound, "no such connector, or no REST API of Kafka Connect at this path (404)"
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		e.Kind, e.text = Denied, "the REST API refuses the credential ("+code+"); check basic, bearer_token_file or cert_file of the cluster"
	case status >= 300 && status < 400:
		e.text = "the answer is a redirect (" + code + "), which is not followed; set url to the REST API itself"
	case status == http.StatusNoContent && method == http.MethodPost:
		e.text = "the workers ignored includeTasks (204), so the tasks keep the old value; Kafka Connect 3.0 or newer is required"
	case status == http.StatusTooManyRequests:
		e.Kind, e.text = Unavailable, "the REST API is overloaded (429)"
	case status >= 500 && method == http.MethodPost:
		e.Kind, e.text = Uncertain, "the REST API failed ("+code+"); the connector may be restarted nevertheless; the worker's log has the reason"
	case status >= 500:
		e.Kind, e.text = Unavailable, "the REST API failed ("+code+"); the worker's log has the reason"
	default:
		e.text = "unexpected answer of the REST API (" + code + "); check the URL"
	}
	return e
}

// failedToSend returns the error of a request without a complete answer.
func (c *Client) failedToSend(ctx context.Context, method string, err error) *Error {
	e := &Error{Cluster: c.cluster.Name, Kind: Unavailable, cause: context.Cause(ctx)}
	var dial *net.OpError
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var record tls.RecordHeaderError
	var lookup *net.DNSError
	var timeout net.Error
	switch {
	case errors.As(err, &unknown):
		e.Kind, e.text = Failed, "the certificate of the REST API is of an unknown authority; set ca_file"
	case errors.As(err, &name):
		e.Kind, e.text = Failed, "the certificate of the REST API is for another host; correct url, or set server_name"
	case errors.As(err, &invalid):
		e.Kind, e.text = Failed, "the certificate of the REST API is not valid; it may have expired"
	case errors.As(err, &record):
		e.Kind, e.text = Failed, "the REST API does not speak TLS at this port; check url"
	case errors.As(err, &lookup):
		e.text = "the host of the URL cannot be resolved"
	case errors.As(err, &dial) && dial.Op == "dial":
		e.text = "the REST API cannot be reached; check url, and whether the worker runs"
	case errors.As(err, &timeout) && timeout.Timeout():
		e.text = "the REST API did not answer within the timeout"
		if method == http.MethodPost {
			e.Kind, e.text = Uncertain, e.text+"; the connector may be restarted nevertheless"
		}
	default:
		e.text = "the connection to the REST API broke, or its TLS handshake failed"
		if method == http.MethodPost {
			e.Kind, e.text = Uncertain, e.text+"; the connector may be restarted nevertheless"
		}
	}
	return e
}
