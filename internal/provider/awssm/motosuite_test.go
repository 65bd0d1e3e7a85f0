package awssm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"

	"github.com/secretbroker/secretbroker/internal/provider/providertest"
)

// TestMotoConformance runs the suite against moto. A proxy in front of moto injects
// the faults that moto cannot produce (throttling, hanging, denying one secret with
// AWS's error code), and forwards all other requests unchanged, signatures included.
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

// world returns a World in which all names begin with prefix.
func (m *moto) world(t testing.TB, prefix string) *providertest.World {
	f := &fake{Env: providertest.NewEnv(t)}
	f.start(http.HandlerFunc(m.forward))
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

// forward forwards a request to moto.
func (m *moto) forward(w http.ResponseWriter, r *http.Request) {
	on, err := http.NewRequestWithContext(context.WithoutCancel(r.Context()), r.Method, "https://"+r.Host+r.URL.RequestURI(), r.Body)
	if err != nil {
		return
	}
	on.Header, on.ContentLength = r.Header.Clone(), r.ContentLength
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
