package azurekv

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azqueue/v2"

	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// azuriteVersion is the version that is installed from npm.
const azuriteVersion = "3.37.0"

// azuriteKey is the key of the account, which only the administrator uses.
var azuriteKey = base64.StdEncoding.EncodeToString([]byte("the key of the administrator of azurite"))

// startAzurite installs Microsoft's emulator of Azure Storage into the user's cache unless it
// is there, and starts its queues with the checks of tokens that it has: issuer, audience and
// times, and not the signature. It returns an administrator's client of the queue "events",
// which does not exist yet. It runs only if TEST_PEERS is set: make test-peers.
func startAzurite(q *storageQueue) *azqueue.QueueClient {
	q.Helper()
	if os.Getenv("TEST_PEERS") == "" {
		q.Skip("needs azurite, which make test-peers installs")
	}
	server := installAzurite(q)
	cert := q.Certificate(queueHost)
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	providertest.Must(q, err)
	address := providertest.ClosedPort(q)
	_, port, _ := net.SplitHostPort(address)
	cmd := exec.CommandContext(q.Context(), server, "--queueHost", "127.0.0.1", "--queuePort", port, "--oauth", "basic",
		"--inMemoryPersistence", "--disableTelemetry", "--silent",
		"--cert", providertest.WriteFile(q, "cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})),
		"--key", providertest.WriteFile(q, "key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
	output := &providertest.Log{}
	account, _, _ := strings.Cut(queueHost, ".")
	cmd.Env = append(os.Environ(), "AZURITE_ACCOUNTS="+account+":"+azuriteKey)
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = q.TempDir(), output, output, 5*time.Second
	providertest.Must(q, cmd.Start())
	q.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if q.Failed() {
			q.Log(output.String())
		}
	})
	q.Dial[queueHost] = address
	in := q.integration()
	roots, err := loadRoots(q.CAFile)
	providertest.Must(q, err)
	client := newQueueClient(q.Config().For(in), in, roots, queueHost)
	q.Cleanup(client.CloseIdleConnections)
	cred, err := azqueue.NewSharedKeyCredential(account, azuriteKey)
	providertest.Must(q, err)
	admin, err := azqueue.NewQueueClientWithSharedKeyCredential(queueURL, cred, &azqueue.ClientOptions{ClientOptions: azcore.ClientOptions{Transport: client}})
	providertest.Must(q, err)
	every := time.NewTicker(100 * time.Millisecond)
	defer every.Stop()
	for deadline := time.Now().Add(time.Minute); ; <-every.C {
		conn, err := new(net.Dialer).DialContext(q.Context(), "tcp", address)
		if err == nil {
			providertest.Must(q, conn.Close())
			return admin
		}
		if time.Now().After(deadline) {
			q.Fatalf("azurite does not answer: %v", err)
		}
	}
}

// installAzurite returns the path of azurite-queue. It skips the test if npm is missing: on
// Debian npm takes hundreds of packages.
func installAzurite(t testing.TB) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	providertest.Must(t, err)
	dir := filepath.Join(cache, "secretbroker-peers", "azurite-"+azuriteVersion)
	server := filepath.Join(dir, "node_modules", ".bin", "azurite-queue")
	if _, err := os.Stat(filepath.Join(dir, "complete")); err == nil {
		return server
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		t.Skip("npm is not installed, so azurite cannot be; install Node.js with npm to run this test")
	}
	providertest.Must(t, os.MkdirAll(dir, 0o700))
	cmd := exec.CommandContext(t.Context(), npm, "install", "--prefix", dir, "--no-audit", "--no-fund", "--ignore-scripts", "azurite@"+azuriteVersion)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("npm install: %v\n%s", err, out)
	}
	providertest.Must(t, os.WriteFile(filepath.Join(dir, "complete"), nil, 0o600))
	return server
}

// entraToken is an unsigned token with the claims of Entra ID.
func entraToken(audience string) string {
	now := time.Now().Unix()
	part := func(v map[string]any) string {
		b, _ := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(b)
	}
	return part(map[string]any{"alg": "RS256", "typ": "JWT"}) + "." + part(map[string]any{
		"aud": audience, "iss": "https://sts.windows.net/" + tenantID + "/", "iat": now - 60, "nbf": now - 60, "exp": now + 3600,
	}) + ".c2lnbmF0dXJl"
}

// TestAzuritePeer: the source receives, looks at and deletes the messages of a queue that
// others wrote, with tokens.
func TestAzuritePeer(t *testing.T) {
	q := newStorageQueue(t)
	audience := "https://storage.azure.com"
	q.token = func(w http.ResponseWriter, _ *http.Request) {
		providertest.WriteJSON(w, http.StatusOK, fmt.Sprintf(`{"token_type":"Bearer","expires_in":3600,"access_token":%q}`, entraToken(audience)))
	}
	admin := startAzurite(q)
	s := q.source(nil)
	_, err := s.Receive(t.Context())
	q.CheckError(err, secret.ReasonStoreNotFound)
	_, err = admin.Create(t.Context(), nil)
	providertest.Must(t, err)
	for range 12 {
		_, err := admin.EnqueueMessage(t.Context(), base64.StdEncoding.EncodeToString([]byte(sampleEventGrid)), nil)
		providertest.Must(t, err)
	}
	if got := providertest.Steps(s.Check(t.Context())); got != "events of "+queueURL+" ok" {
		t.Errorf("the check: %s", got)
	}
	seen := make(map[string]bool)
	for len(seen) < 12 {
		messages := q.receive(s)
		if len(messages) == 0 {
			t.Fatalf("%d of 12 messages", len(seen))
		}
		for _, m := range messages {
			if seen[m.ID] || m.Deliveries != 1 || time.Since(m.SentAt) > time.Minute || len(m.Events) != 1 || m.Events[0].Version != sampleVersion {
				t.Errorf("received %+v", m)
			}
			seen[m.ID] = true
		}
		providertest.Must(t, s.Acknowledge(t.Context(), messages))
		providertest.Must(t, s.Acknowledge(t.Context(), messages)) // they are gone
	}
	left, err := admin.GetProperties(t.Context(), nil)
	if err != nil || *left.ApproximateMessagesCount != 0 {
		t.Errorf("%v messages are left, %v", left.ApproximateMessagesCount, err)
	}
	if none := q.receive(s); none != nil {
		t.Errorf("received %+v from an empty queue", none)
	}

	_, err = admin.EnqueueMessage(t.Context(), "{}", nil)
	providertest.Must(t, err)
	first := q.receive(s)
	hidden := int32(0)
	_, err = admin.UpdateMessage(t.Context(), first[0].ID, first[0].Handle.(delivery).receipt, "{}", &azqueue.UpdateMessageOptions{VisibilityTimeout: &hidden})
	providertest.Must(t, err)
	providertest.Must(t, s.Acknowledge(t.Context(), first)) // belongs to another delivery
	if again := q.receive(s); len(again) != 1 || again[0].Deliveries != 2 || again[0].ID != first[0].ID {
		t.Errorf("the second delivery: %+v", again)
	}

	audience = "https://vault.azure.net"
	other := q.source(nil)
	other.wait = func(context.Context, time.Duration) bool { return false }
	_, err = other.Receive(t.Context())
	q.CheckError(err, secret.ReasonStoreAuthenticationFailed)
}
