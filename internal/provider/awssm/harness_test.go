package awssm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/devmode/secretsmanager"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const (
	canary     = providertest.Canary
	account    = "123456789012"
	otherOne   = "210987654321"
	region     = "eu-west-1"
	storeURL   = "https://secretsmanager." + region + ".amazonaws.com"
	storeARN   = "arn:aws:secretsmanager:" + region + ":" + account
	smHost     = "secretsmanager." + region + ".amazonaws.com"
	stsHost    = "sts." + region + ".amazonaws.com"
	otherHost  = "secretsmanager.us-east-1.amazonaws.com"
	sqsHost    = "sqs." + region + ".amazonaws.com"
	queueURL   = "https://" + sqsHost + "/" + account + "/" + secretsmanager.QueueName
	queueARN   = "arn:aws:sqs:" + region + ":" + account + ":" + secretsmanager.QueueName
	roleARN    = "arn:aws:iam::" + account + ":role/team/reader"
	externalID = "external-id-of-it"
	baseKey    = "AKIABASE"
	baseSecret = "the-secret-access-key-of-the-test"
	oidcToken  = "the.oidc.token"
	suffix     = "AbCdEf" // of every secret's ARN
)

// fake is Secrets Manager in two regions and STS, with TLS certificates of a CA that
// only integrations with its CAFile trust, and with a hook for faults.
type fake struct {
	*providertest.Env
	server *secretsmanager.Server
	next   http.Handler // server, or a handler of the test

	mu    sync.Mutex
	state *secretsmanager.State
	calls []call

	// answer, if set, handles an operation before the signature is checked. If it
	// returns false, the fake handles the operation.
	answer func(w http.ResponseWriter, r *http.Request, operation string, body []byte) bool
}

// call is a request: its operation, and its input for Secrets Manager, STS or SQS.
type call struct {
	operation           string
	MaxNumberOfMessages int
	SecretId, VersionId string
	VersionStage        string
	form                url.Values
}

func newFake(t testing.TB) *fake {
	t.Helper()
	f := &fake{Env: providertest.NewEnv(t, baseSecret, oidcToken, "session-secret", "session-token", "AWS4-HMAC")}
	f.state = &secretsmanager.State{
		Identity: secretsmanager.Identity{
			AccessKeyID: baseKey, SecretAccessKey: baseSecret, RoleARN: roleARN, ExternalID: externalID, WebIdentityToken: oidcToken,
		},
		Regions: map[string]*secretsmanager.Region{
			region:      {Secrets: map[string]*secretsmanager.Secret{}},
			"us-east-1": {Secrets: map[string]*secretsmanager.Secret{}},
		},
		ErrorNote: canary + baseSecret,
	}
	var err error
	f.server, err = secretsmanager.New(f.state, nil)
	providertest.Must(t, err)
	f.start(f.server)
	return f
}

// start serves the hosts with next.
func (f *fake) start(next http.Handler) {
	f.next = next
	f.Serve(f.Certificate(smHost, otherHost, stsHost, sqsHost), http.HandlerFunc(f.serve), smHost, otherHost, stsHost, sqsHost)
}

// serve records the operation and calls the test's handler.
func (f *fake) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client has disconnected
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	var c call
	target := r.Header.Get("X-Amz-Target")
	if _, c.operation, _ = strings.Cut(target, "."); target != "" {
		err = json.Unmarshal(body, &c)
	} else if c.form, err = url.ParseQuery(string(body)); err == nil {
		c.operation = c.form.Get("Action")
	}
	switch c.operation {
	case "GetSecretValue", "DescribeSecret", "AssumeRole", "AssumeRoleWithWebIdentity", "ReceiveMessage", "DeleteMessageBatch", "GetQueueAttributes":
	default:
		f.Errorf("operation %q: %v", c.operation, err)
	}
	f.mu.Lock()
	f.calls = append(f.calls, c)
	answer := f.answer
	f.mu.Unlock()
	if answer == nil || !answer(w, r, c.operation, body) {
		f.next.ServeHTTP(w, r)
	}
}

// asked returns the calls whose operations begin with prefix.
func (f *fake) asked(prefix string) (found []call) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.calls {
		if strings.HasPrefix(c.operation, prefix) {
			found = append(found, c)
		}
	}
	return found
}

// count returns the number of calls of an operation.
func (f *fake) count(operation string) (n int) {
	for _, c := range f.asked(operation) {
		if c.operation == operation {
			n++
		}
	}
	return n
}

// change edits the state.
func (f *fake) change(edit func(s *secretsmanager.State)) {
	f.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	b, err := json.Marshal(f.state)
	providertest.Must(f, err)
	fresh := new(secretsmanager.State)
	providertest.Must(f, json.Unmarshal(b, fresh))
	edit(fresh)
	providertest.Must(f, f.server.Replace(fresh))
	f.state = fresh
}

// set edits a secret, and creates it if it does not exist.
func (f *fake) set(region, name string, edit func(s *secretsmanager.Secret)) {
	f.Helper()
	f.change(func(state *secretsmanager.State) {
		secrets := state.Regions[region].Secrets
		if secrets[name] == nil {
			secrets[name] = &secretsmanager.Secret{Suffix: suffix}
		}
		edit(secrets[name])
	})
}

// put adds a version with the text, makes it the current one, and returns the
// secret's ARN in the first region.
func (f *fake) put(region, name, text string) (arn string) {
	f.Helper()
	f.set(region, name, func(s *secretsmanager.Secret) { s.Versions = append(s.Versions, secretsmanager.Version{Value: text}) })
	return storeARN + ":secret:" + name + "-" + suffix
}

// integration returns an integration that reaches the fake with static keys and a
// role.
func (f *fake) integration() *integration.Integration {
	return &integration.Integration{
		ID: "it", Revision: "1", Kind: secret.KindAWSSecretsManager,
		Settings: &Settings{
			Stores:    []string{storeURL, storeARN, "https://" + otherHost, "arn:aws:secretsmanager:us-east-1:" + account},
			AccountID: account,
			Role:      &Role{ARN: roleARN, ExternalID: externalID, Duration: time.Hour},
			Credential: Credential{
				Type:                Static,
				AccessKeyIDFile:     providertest.WriteFile(f, "id", baseKey+"\n"),
				SecretAccessKeyFile: providertest.WriteFile(f, "key", baseSecret+"\n"),
			},
			Endpoints:   map[string]string{region: storeURL, "us-east-1": "https://" + otherHost},
			STSRegion:   region,
			STSEndpoint: "https://" + stsHost,
			CAFile:      f.CAFile,
			Dial:        f.Dial,
		},
	}
}

func (f *fake) open(cfg provider.Config, in *integration.Integration) *store {
	f.Helper()
	return f.Open(Opener(cfg), in).(*store)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	_ = json.NewEncoder(w).Encode(v)
}

func writeFault(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.Header().Set("X-Amzn-Requestid", "c0ffee00-1111-2222-3333-444444444444")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"__type": code, "Message": message})
}

func writeSTSFault(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "text/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, `<ErrorResponse><Error><Code>%s</Code><Message>not for you: %s %s</Message></Error></ErrorResponse>`, code, canary, baseSecret)
}
