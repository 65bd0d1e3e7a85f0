package awssm

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	signer "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// motoVersion is the version that is installed from PyPI.
const motoVersion = "5.2.5"

// moto is an independent server for IAM, STS, Secrets Manager, SQS and EventBridge. It checks
// signatures, the policies of users and roles, and the external ID that a role's
// trust policy requires.
type moto struct {
	t      *testing.T
	addr   string
	caFile string
	http   *http.Client
	sm     *secretsmanager.Client // the administrator's
	broker aws.Credentials
	admin  aws.Credentials
}

// startMoto installs moto into the user's cache unless it is there, and starts it. It
// runs only if TEST_PEERS is set: make test-peers.
func startMoto(t *testing.T) *moto {
	t.Helper()
	if os.Getenv("TEST_PEERS") == "" {
		t.Skip("needs moto, which make test-peers installs")
	}
	f := &fake{Env: providertest.NewEnv(t)}
	cert := f.Certificate(smHost, stsHost, sqsHost, eventsHost, "iam.amazonaws.com")
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	providertest.Must(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	providertest.Must(t, err)
	m := &moto{t: t, addr: l.Addr().String(), caFile: f.CAFile}
	providertest.Must(t, l.Close())
	_, port, _ := net.SplitHostPort(m.addr)
	cmd := exec.CommandContext(t.Context(), installMoto(t), "-H", "127.0.0.1", "-p", port,
		"-c", providertest.WriteFile(t, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}))),
		"-k", providertest.WriteFile(t, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))))
	output := &providertest.Log{}
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = output, output, 5*time.Second
	providertest.Must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(output.String())
		}
	})
	m.connect(cert)
	m.users()
	return m
}

// installMoto returns the path of moto_server.
func installMoto(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	providertest.Must(t, err)
	dir := filepath.Join(cache, "secretbroker-peers", "moto-"+motoVersion)
	server := filepath.Join(dir, "bin", "moto_server")
	if _, err := os.Stat(filepath.Join(dir, "complete")); err == nil {
		return server
	}
	for _, args := range [][]string{
		{"python3", "-m", "venv", "--clear", dir},
		{filepath.Join(dir, "bin", "pip"), "install", "--quiet", "--disable-pip-version-check", "moto[server]==" + motoVersion},
	} {
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	providertest.Must(t, os.WriteFile(filepath.Join(dir, "complete"), nil, 0o600))
	return server
}

// connect waits until the server answers.
func (m *moto) connect(cert tls.Certificate) {
	m.t.Helper()
	roots := x509.NewCertPool()
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	providertest.Must(m.t, err)
	ca, err := os.ReadFile(m.caFile)
	providertest.Must(m.t, err)
	roots.AppendCertsFromPEM(ca)
	roots.AddCert(leaf)
	m.http = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, m.addr)
		},
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
	}}
	m.t.Cleanup(m.http.CloseIdleConnections)
	every := time.NewTicker(100 * time.Millisecond)
	defer every.Stop()
	for deadline := time.Now().Add(time.Minute); ; <-every.C {
		if _, err := m.post("https://"+smHost+"/moto-api/reset", ""); err == nil {
			break
		} else if time.Now().After(deadline) {
			m.t.Fatalf("moto does not answer: %v", err)
		}
	}
}

func (m *moto) post(to, body string) (string, error) {
	r, err := http.NewRequestWithContext(m.t.Context(), http.MethodPost, to, strings.NewReader(body))
	providertest.Must(m.t, err)
	switch {
	case strings.HasPrefix(body, "Action=") && m.admin.HasKeys():
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		m.sign(r, body, "iam", "us-east-1")
	case strings.HasPrefix(body, "Action="):
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		// moto determines the service from this header; it checks no signature yet.
		r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=AKIASETUP/20260101/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=0")
	}
	return m.do(r)
}

// sign signs a request of the administrator.
func (m *moto) sign(r *http.Request, body, service, region string) {
	m.t.Helper()
	sum := sha256.Sum256([]byte(body))
	providertest.Must(m.t, signer.NewSigner().SignHTTP(m.t.Context(), m.admin, r, hex.EncodeToString(sum[:]), service, region, time.Now()))
}

func (m *moto) do(r *http.Request) (string, error) {
	resp, err := m.http.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, b)
	}
	return string(b), err
}

// iam sends an action to IAM.
func (m *moto) iam(action string, parameters ...string) string {
	m.t.Helper()
	form := url.Values{"Action": {action}, "Version": {"2010-05-08"}}
	for i := 0; i < len(parameters); i += 2 {
		form.Set(parameters[i], parameters[i+1])
	}
	out, err := m.post("https://iam.amazonaws.com/", form.Encode())
	if err != nil {
		m.t.Fatalf("%s: %v", action, err)
	}
	return out
}

func policy(statement map[string]any) string {
	statement["Effect"] = "Allow"
	b, _ := json.Marshal(map[string]any{"Version": "2012-10-17", "Statement": []any{statement}})
	return string(b)
}

// user creates a user with a policy.
func (m *moto) user(name, policy string) aws.Credentials {
	m.t.Helper()
	m.iam("CreateUser", "UserName", name)
	m.iam("PutUserPolicy", "UserName", name, "PolicyName", "p", "PolicyDocument", policy)
	out := m.iam("CreateAccessKey", "UserName", name)
	between := func(tag string) string {
		_, rest, _ := strings.Cut(out, "<"+tag+">")
		text, _, _ := strings.Cut(rest, "</")
		return text
	}
	return aws.Credentials{AccessKeyID: between("AccessKeyId"), SecretAccessKey: between("SecretAccessKey")}
}

// users creates an administrator, and a user "broker" that may assume two roles, of
// which "reader" may read secrets. From then on moto checks every request.
func (m *moto) users() {
	m.t.Helper()
	keys := func(user, allowed string) aws.Credentials {
		return m.user(user, policy(map[string]any{"Action": allowed, "Resource": "*"}))
	}
	m.admin = keys("admin", "*")
	m.broker = keys("broker", "sts:AssumeRole")
	for _, role := range []string{"reader", "bystander"} {
		m.iam("CreateRole", "RoleName", role, "AssumeRolePolicyDocument", policy(map[string]any{
			"Action": "sts:AssumeRole", "Principal": map[string]string{"AWS": "arn:aws:iam::" + account + ":user/broker"},
			"Condition": map[string]any{"StringEquals": map[string]string{"sts:ExternalId": externalID}},
		}))
	}
	m.iam("PutRolePolicy", "RoleName", "reader", "PolicyName", "p", "PolicyDocument", policy(map[string]any{"Action": "secretsmanager:GetSecretValue", "Resource": "*"}))
	o := secretsManagerOptions(region, storeURL, m.http)
	o.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return m.admin, nil })
	m.sm = secretsmanager.New(o)
	_, err := m.post("https://"+smHost+"/moto-api/reset-auth", "0")
	providertest.Must(m.t, err)
}

// integration returns an integration that reads as the role "reader", through f's
// dial table.
func (m *moto) integration(f *fake) *integration.Integration {
	in := f.integration()
	a := settingsOf(in)
	a.Stores, a.Endpoints = []string{storeURL, storeARN}, map[string]string{region: storeURL}
	a.Role.ARN = "arn:aws:iam::" + account + ":role/reader"
	a.Credential.AccessKeyIDFile, a.Credential.SecretAccessKeyFile = providertest.WriteFile(f, "id", m.broker.AccessKeyID), providertest.WriteFile(f, "key", m.broker.SecretAccessKey)
	return in
}

func (m *moto) create(in *secretsmanager.CreateSecretInput) (arn string) {
	m.t.Helper()
	out, err := m.sm.CreateSecret(m.t.Context(), in)
	providertest.Must(m.t, err)
	return *out.ARN
}

func TestMoto(t *testing.T) {
	m := startMoto(t)
	arn := m.create(&secretsmanager.CreateSecretInput{Name: aws.String("prod/db"), SecretString: aws.String("old " + canary)})
	_, err := m.sm.PutSecretValue(t.Context(), &secretsmanager.PutSecretValueInput{SecretId: &arn, SecretString: aws.String(canary)})
	providertest.Must(t, err)
	m.create(&secretsmanager.CreateSecretInput{Name: aws.String("blob"), SecretBinary: []byte("\xfe\xed" + canary)})
	m.create(&secretsmanager.CreateSecretInput{Name: aws.String("empty")})
	m.create(&secretsmanager.CreateSecretInput{Name: aws.String("my-secret"), SecretString: aws.String(canary)})
	gone := m.create(&secretsmanager.CreateSecretInput{Name: aws.String("gone"), SecretString: aws.String(canary)})
	_, err = m.sm.DeleteSecret(t.Context(), &secretsmanager.DeleteSecretInput{SecretId: &gone})
	providertest.Must(t, err)

	f := &fake{Env: providertest.NewEnv(t)}
	f.CAFile, f.Dial = m.caFile, map[string]string{smHost: m.addr, stsHost: m.addr}
	openWith := func(change func(*Settings)) *store {
		in := m.integration(f)
		if change != nil {
			change(settingsOf(in))
		}
		return f.open(f.Config(), in)
	}
	s := openWith(nil)
	current := f.Fetch(s, storeURL+"::prod/db")
	previous := f.Fetch(s, storeURL+"::prod/db#AWSPREVIOUS")
	if providertest.Reveal(t, current) != canary || providertest.Reveal(t, previous) != "old "+canary || current.Version == previous.Version {
		t.Errorf("versions %s and %s", current.Version, previous.Version)
	}
	for reference, version := range map[string]string{
		arn: current.Version, arn + "#AWSPREVIOUS": previous.Version, arn + "#" + previous.Version: previous.Version,
	} {
		if got := f.Fetch(s, reference); got.Version != version {
			t.Errorf("%s: version %s, want %s", reference, got.Version, version)
		}
	}
	if got := f.Fetch(s, storeURL+"::blob"); got.Size() != 56 { // base64 of 40 bytes
		t.Errorf("%d bytes", got.Size())
	}
	for reference, want := range map[string]secret.Reason{
		storeURL + "::missing":                            secret.ReasonSecretNotFound,
		storeURL + "::empty":                              secret.ReasonSecretNotFound,
		storeURL + "::prod/db#BLUE":                       secret.ReasonSecretNotFound,
		storeURL + "::prod/db#" + strings.Repeat("1", 32): secret.ReasonSecretNotFound,
		storeARN + ":secret:my-secret":                    secret.ReasonSecretNotFound,
		storeURL + "::gone":                               secret.ReasonSecretDisabled,
	} {
		f.Fails(t.Context(), s, reference, want)
	}
	for name, change := range map[string]func(*Settings){
		"another external ID": func(a *Settings) { a.Role.ExternalID = "of-another" },
		"another key": func(a *Settings) {
			a.Credential.SecretAccessKeyFile = providertest.WriteFile(t, "key", "of-another")
		},
		"a key that is none": func(a *Settings) { a.Credential.AccessKeyIDFile = providertest.WriteFile(t, "id", "AKIANOBODY") },
	} {
		t.Log(name)
		f.Fails(t.Context(), openWith(change), storeURL+"::prod/db", secret.ReasonStoreAuthenticationFailed)
	}
	// moto refuses with an error code of STS where AWS uses one of Secrets Manager,
	// so the reason differs from the one for AWS.
	bystander := openWith(func(a *Settings) { a.Role.ARN = "arn:aws:iam::" + account + ":role/bystander" })
	f.Fails(t.Context(), bystander, storeURL+"::prod/db", secret.ReasonStoreUnavailable)
}
