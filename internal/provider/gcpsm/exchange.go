package gcpsm

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/oauth2"
)

// The names of the token endpoints in messages.
const (
	oauthEndpoint    = "Google's token endpoint (" + OAuthHost + ")"
	stsEndpoint      = "Google's Security Token Service (" + STSHost + ")"
	iamEndpoint      = "IAM Service Account Credentials (" + IAMCredentialsHost + ")"
	metadataEndpoint = "the metadata server"
)

// metadataHost is the metadata server of machines and pods of Google Cloud. The
// environment may name another host, as with Google's own clients. It is local to the
// machine and uses plain HTTP.
const (
	metadataHost     = "169.254.169.254"
	metadataVariable = "GCE_METADATA_HOST"
	metadataPath     = "/computeMetadata/v1/instance/service-accounts/default/token"
)

// metadataOrigin returns scheme and host of the metadata server.
func metadataOrigin() string {
	if host := os.Getenv(metadataVariable); host != "" {
		return "http://" + strings.ToLower(host)
	}
	return "http://" + metadataHost
}

// tokenLifetime is the requested lifetime of an impersonated account's token. It is
// the maximum that Google permits unless an organization policy allows more.
const tokenLifetime = "3600s"

func fromMetadataServer(of origin) *identity {
	url := metadataOrigin() + metadataPath
	return &identity{steps: []step{{
		who: metadataEndpoint, setting: of.setting,
		get: func(ctx context.Context, client *caller, _ token) (token, error) {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
			if err != nil {
				return token{}, err
			}
			req.Header.Set("Metadata-Flavor", "Google") // required; no other protocol sends it by accident
			var answer struct {
				AccessToken string `json:"access_token"`
				ExpiresIn   int64  `json:"expires_in"` // seconds
			}
			began := time.Now()
			if err := client.do(req, &answer); err != nil {
				return token{}, err
			}
			if answer.AccessToken == "" || answer.ExpiresIn <= 0 {
				return token{}, errNoToken
			}
			return newToken(answer.AccessToken, began.Add(time.Duration(answer.ExpiresIn)*time.Second)), nil
		},
	}}}
}

// impersonation exchanges the token of the previous step for a token of account.
// Source: IAM Service Account Credentials API,
// projects.serviceAccounts.generateAccessToken.
func impersonation(account string, of origin) step {
	url := impersonationURL(account)
	return step{
		who: iamEndpoint, setting: of.setting,
		get: func(ctx context.Context, client *caller, before token) (token, error) {
			body := `{"scope":["` + of.scope + `"],"lifetime":"` + tokenLifetime + `"}`
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
			if err != nil {
				return token{}, err
			}
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("Authorization", "Bearer "+before.text())
			var answer struct {
				AccessToken string    `json:"accessToken"`
				ExpireTime  time.Time `json:"expireTime"`
			}
			if err := client.do(req, &answer); err != nil {
				return token{}, err
			}
			if answer.AccessToken == "" || answer.ExpireTime.IsZero() {
				return token{}, errNoToken
			}
			return newToken(answer.AccessToken, answer.ExpireTime), nil
		},
	}
}

// exchange is the result of one token request. The library puts whole responses into
// its errors; exchange keeps only what is safe to log.
type exchange struct {
	made   bool
	status int
	failed *apiError // for a response other than 200
	err    error     // a failure below HTTP
}

// caller makes the single request of a step, for each way in which the library sends
// it, and records the result. It must not be used by more than one goroutine.
type caller struct {
	ctx  context.Context
	next http.RoundTripper
	last exchange
}

// oauth returns a context that makes the library send through c.
func (c *caller) oauth(ctx context.Context) context.Context {
	return context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Transport: c, CheckRedirect: noRedirect})
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// RoundTrip implements http.RoundTripper. The library does not pass its context to
// every request, so RoundTrip sets the step's context.
func (c *caller) RoundTrip(r *http.Request) (*http.Response, error) {
	c.last = exchange{made: true}
	resp, err := c.next.RoundTrip(r.WithContext(c.ctx))
	if err != nil {
		c.last.err = err
		return nil, err
	}
	c.last.status = resp.StatusCode
	if resp.StatusCode != http.StatusOK {
		body, err := io.ReadAll(resp.Body) // egress limits the size
		_ = resp.Body.Close()
		if err != nil {
			c.last.err = err
			return nil, err
		}
		resp.Body = io.NopCloser(bytes.NewReader(body))
		c.last.failed = parseError(resp.StatusCode, resp.Header, body)
	}
	return resp, nil
}

// do sends a request and decodes the body of a 200 response into answer.
func (c *caller) do(req *http.Request, answer any) error {
	resp, err := c.RoundTrip(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // it was only read
	if resp.StatusCode != http.StatusOK {
		return c.last.failed
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if json.Unmarshal(body, answer) != nil { // the error quotes the response
		return errNoToken
	}
	return nil
}
