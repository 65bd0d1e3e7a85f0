package vaultkv

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/provider/egress"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
)

// client speaks the HTTP API of Vault. It is safe for concurrent use. Its errors are
// *statusError or errors of the transport, and quote nothing from a response.
type client struct {
	http      *http.Client
	address   string // "https://HOST:PORT"
	namespace string
}

// answer is a successful response.
type answer struct {
	RequestID     string          `json:"request_id"`
	LeaseID       string          `json:"lease_id"`
	LeaseDuration int64           `json:"lease_duration"` // seconds
	Renewable     bool            `json:"renewable"`
	Data          json.RawMessage `json:"data"`
	WrapInfo      json.RawMessage `json:"wrap_info"`
	Auth          *grant          `json:"auth"`

	began time.Time // when the request was sent
}

// grant is the part of a response that describes a token, after a login or a renewal.
type grant struct {
	ClientToken   string `json:"client_token"`
	LeaseDuration int64  `json:"lease_duration"` // seconds; 0 means no end
	Renewable     bool   `json:"renewable"`
}

// wipe overwrites the values that it can reach.
func (a *answer) wipe() { clear(a.Data[:cap(a.Data)]) }

// statusError is an error response: its HTTP status, and the details that are safe to
// log.
type statusError struct {
	status     int
	retryAfter time.Duration
	// gone is the metadata of a KV version 2 secret whose version was deleted. The
	// server sends it with a 404.
	gone *answer
	// misplaced means that the server warned that the path belongs to the other KV
	// version.
	misplaced bool
}

func (e *statusError) Error() string { return fmt.Sprintf("HTTP %d", e.status) }

// errNoProtocol is the error for a 200 response that does not follow Vault's
// protocol.
var errNoProtocol = egress.AnswerError("vaultkv: not a Vault response")

// read requests a path, and repeats the request once if that may help.
func (c *client) read(ctx context.Context, token, path, query string) (*answer, error) {
	a, err := c.do(ctx, http.MethodGet, token, path, query, nil)
	if !worthRepeating(err) {
		return a, err
	}
	pause := time.NewTimer(retryPause)
	defer pause.Stop()
	select {
	case <-pause.C:
		return c.do(ctx, http.MethodGet, token, path, query, nil)
	case <-ctx.Done():
		return nil, err
	}
}

func worthRepeating(err error) bool {
	var status *statusError
	switch {
	case err == nil:
		return false
	case errors.As(err, &status):
		return status.status == http.StatusInternalServerError || status.status == http.StatusBadGateway || status.status == http.StatusGatewayTimeout
	default:
		return egress.OutageOf(err, egress.Advice{}).Transient
	}
}

// do sends one request. The body is sent as JSON unless it is nil.
func (c *client) do(ctx context.Context, method, token, path, query string, body any) (*answer, error) {
	var content io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		defer clear(b)
		content = bytes.NewReader(b)
	}
	// The paths consist of characters that need no encoding, see secret.IsVaultPath.
	to := c.address + "/v1/" + path
	if query != "" {
		to += "?" + query
	}
	r, err := http.NewRequestWithContext(ctx, method, to, content)
	if err != nil {
		return nil, errors.New("vaultkv: the path does not make a valid URL")
	}
	r.Header.Set("X-Vault-Request", "true") // proxies and agents may require it
	if token != "" {
		r.Header.Set("X-Vault-Token", token)
	}
	if c.namespace != "" {
		r.Header.Set("X-Vault-Namespace", c.namespace)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	began := time.Now()
	resp, err := c.http.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body) // the transport limits the size
	if err != nil {
		return nil, err
	}
	defer clear(b)
	return parse(resp, b, began)
}

func parse(resp *http.Response, b []byte, began time.Time) (*answer, error) {
	a := &answer{began: began}
	fault := json.Unmarshal(b, a)
	if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusNoContent {
		if resp.StatusCode == http.StatusOK && fault != nil {
			return nil, errNoProtocol
		}
		return a, nil
	}
	e := &statusError{status: resp.StatusCode, retryAfter: storeerror.RetryAfter(resp.Header)}
	if resp.StatusCode == http.StatusNotFound && fault == nil {
		if isObject(a.Data) {
			e.gone = a
		}
		var also struct{ Warnings []string }
		if json.Unmarshal(b, &also) == nil {
			e.misplaced = strings.Contains(strings.Join(also.Warnings, " "), "versioned K/V")
		}
	}
	return nil, e
}

func isObject(raw json.RawMessage) bool { return len(raw) > 0 && raw[0] == '{' }
