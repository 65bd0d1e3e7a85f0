package awssm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"

	"github.com/secretbroker/secretbroker/internal/provider/providertest"
)

// TestMotoConformance runs the suite against moto. What moto cannot be made to do
// (to throttle, to hang, to forbid one secret in the right words) a proxy before it
// does, which else hands on what comes, signatures included.
func TestMotoConformance(t *testing.T) {
	m := startMoto(t)
	h := conformance()
	h.Exceptions["credential revoked"] = "moto cannot end a session"
	var worlds atomic.Int32
	h.Start = func(t testing.TB) *providertest.World {
		return m.world(t, fmt.Sprintf("world-%d/", worlds.Add(1)))
	}
	providertest.Run(t, h)
}

// world is one in which all names begin with prefix.
func (m *moto) world(t testing.TB, prefix string) *providertest.World {
	f := &fake{Env: providertest.NewEnv(t), server: map[string]*httptest.Server{}}
	f.cert = f.Certificate(smHost, stsHost)
	for _, host := range []string{smHost, stsHost} {
		f.serve(host, func(w http.ResponseWriter, r *http.Request) { m.forward(f, w, r) })
	}
	w := &world{fake: f}
	f.answer = w.answer
	return &providertest.World{
		Integration:    m.integration(f),
		Opener:         Opener(f.Config()),
		Ref:            func(name string) string { return storeURL + "::" + prefix + name },
		Foreign:        "https://secretsmanager.eu-central-1.amazonaws.com::db",
		UnknownVersion: "11111111-1111-1111-1111-111111111111",
		Put:            func(t testing.TB, name string, value []byte) string { return m.put(t, prefix+name, value) },
		Become: func(t testing.TB, name string, state providertest.State) {
			in := &secretsmanager.DeleteSecretInput{SecretId: aws.String(prefix + name)}
			switch state {
			case providertest.Forbidden:
				w.become(t, prefix+name, state)
				return
			case providertest.Deleted:
				in.ForceDeleteWithoutRecovery = aws.Bool(true)
			}
			_, err := m.sm.DeleteSecret(t.Context(), in)
			providertest.Must(t, err)
		},
		Suffer:  w.suffer,
		Login:   w.login,
		Reads:   func() int { return f.count("GetSecretValue") },
		Private: []string{m.broker.SecretAccessKey, "AWS4-HMAC"},
		Log:     f.Logs.String,
	}
}

func (m *moto) put(t testing.TB, name string, value []byte) (version string) {
	t.Helper()
	create := &secretsmanager.CreateSecretInput{Name: &name, SecretString: aws.String(string(value))}
	if !utf8.Valid(value) {
		create.SecretString, create.SecretBinary = nil, value
	}
	out, err := m.sm.CreateSecret(t.Context(), create)
	if err == nil {
		return *out.VersionId
	}
	if !errors.As(err, new(*types.ResourceExistsException)) {
		t.Fatal(err)
	}
	changed, err := m.sm.PutSecretValue(t.Context(), &secretsmanager.PutSecretValueInput{SecretId: &name, SecretString: create.SecretString, SecretBinary: create.SecretBinary})
	providertest.Must(t, err)
	return *changed.VersionId
}

// forward hands a request on to moto, unless the world answers it.
func (m *moto) forward(f *fake, w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	operation, ok := strings.CutPrefix(r.Header.Get("X-Amz-Target"), "secretsmanager.")
	if form, err := url.ParseQuery(string(body)); !ok && err == nil {
		operation = form.Get("Action")
	}
	if f.begin(w, r, operation, body) {
		return
	}
	on, err := http.NewRequestWithContext(context.WithoutCancel(r.Context()), r.Method, "https://"+r.Host+r.URL.RequestURI(), bytes.NewReader(body))
	if err != nil {
		return
	}
	on.Header = r.Header.Clone()
	resp, err := m.http.Do(on)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body)
}
