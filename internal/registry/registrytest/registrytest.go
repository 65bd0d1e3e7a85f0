// Package registrytest contains the conformance tests of registry.Store. Every
// implementation must pass them.
package registrytest

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/registry"
)

// Backend stores the integrations of one test. It is empty at first.
type Backend struct {
	// Open opens another Store on the Backend, as a replica would. The Store is closed
	// when the test ends.
	Open func(t *testing.T, s Settings) registry.Store
	// Write writes an integration without the Store, for stores that are read-only, such
	// as files. It is nil for other stores. An empty document removes the integration.
	Write func(t *testing.T, id, document string)
}

// Settings are the settings of a Store that a test requires.
type Settings struct {
	// MaxIntegrations is the quota; 0 means one that no test reaches.
	MaxIntegrations int
	OnChange        func(removed, changed []*integration.Integration)
}

// Run runs all tests, each with its own Backend.
func Run(t *testing.T, newBackend func(t *testing.T) *Backend) {
	each := func(tests map[string]func(*testing.T, *Backend)) {
		for name, test := range tests {
			t.Run(name, func(t *testing.T) { test(t, newBackend(t)) })
		}
	}
	each(map[string]func(*testing.T, *Backend){
		"Empty":    testEmpty,
		"Read":     testRead,
		"Paging":   testPaging,
		"Run":      testRun,
		"OnChange": testOnChange,
	})
	if newBackend(t).Write != nil {
		each(map[string]func(*testing.T, *Backend){"ReadOnly": testReadOnly})
		return
	}
	each(map[string]func(*testing.T, *Backend){
		"Create":               testCreate,
		"Update":               testUpdate,
		"Delete":               testDelete,
		"ETag":                 testETag,
		"UID":                  testUID,
		"Quota":                testQuota,
		"Invalid":              testInvalid,
		"ValidateOnly":         testValidateOnly,
		"Cancelled":            testCancelled,
		"Replicas":             testReplicas,
		"Refresh":              testRefresh,
		"TwoWriters":           testTwoWriters,
		"Credentials":          testCredentials,
		"CredentialsFollow":    testCredentialsFollow,
		"CredentialFaults":     testCredentialFaults,
		"CredentialsAreHidden": testCredentialsAreHidden,
		"Usage":                testUsage,
		"UsageGoesAlong":       testUsageGoesAlong,
		"UsageFromReplicas":    testUsageFromReplicas,
		"UsageVersions":        func(t *testing.T, b *Backend) { UsageVersions(t, createABC(t, b)) },
		"VersionsFromReplicas": testVersionsFromReplicas,
		"UsagePages":           func(t *testing.T, b *Backend) { UsagePages(t, createABC(t, b)) },
		"Seen":                 func(t *testing.T, b *Backend) { Seen(t, createABC(t, b)) },
		"SeenGoesAlong":        testSeenGoesAlong,
	})
}

const worker = "spiffe://example.org/connect/worker-1"

// document returns a small integration with one grant.
func document(id, vault string) string {
	return fmt.Sprintf("id: %s # kept as it is\nkind: AZURE_KEY_VAULT\nazure:\n  credential: {type: managed_identity}\n  vaults: [https://%s.vault.azure.net]\ngrants:\n  - principals: [%s]\n",
		id, vault, worker)
}

// secretDocument returns an integration that requires a client secret.
func secretDocument(id string) string {
	const tenant, client = "11111111-2222-3333-4444-555555555555", "66666666-7777-8888-9999-aaaaaaaaaaaa"
	return fmt.Sprintf("id: %s\nkind: AZURE_KEY_VAULT\nazure:\n  tenant_id: %s\n  client_id: %s\n  credential: {type: client_secret}\n  vaults: [https://abc.vault.azure.net]\n",
		id, tenant, client)
}

// put creates or replaces an integration, or deletes it if doc is empty. When it returns,
// s serves the new state.
func (b *Backend) put(t *testing.T, s registry.Store, id, doc string) {
	t.Helper()
	if b.Write != nil {
		b.Write(t, id, doc)
		s.Reload()
		return
	}
	ctx := t.Context()
	c := registry.Change{Document: []byte(doc), By: "dns:admin.example.org"}
	_, err := s.Record(ctx, id)
	switch {
	case doc == "":
		err = s.Delete(ctx, id, "")
	case err == nil:
		_, err = s.Update(ctx, c)
	default:
		_, err = s.Create(ctx, c)
	}
	if err != nil {
		t.Fatalf("put %s: %v", id, err)
	}
}

func mustCreate(t *testing.T, s registry.Store, c registry.Change) registry.Record {
	t.Helper()
	r, err := s.Create(t.Context(), c)
	if err != nil {
		t.Fatalf("Create: %v", err)
	}
	return r
}

func mustUpdate(t *testing.T, s registry.Store, c registry.Change) registry.Record {
	t.Helper()
	r, err := s.Update(t.Context(), c)
	if err != nil {
		t.Fatalf("Update: %v", err)
	}
	return r
}

func mustGet(t *testing.T, s registry.Store, id string) *integration.Integration {
	t.Helper()
	in, err := s.Get(id)
	if err != nil {
		t.Fatalf("Get(%s): %v", id, err)
	}
	return in
}

func ids(ins []*integration.Integration) string {
	var all []string
	for _, in := range ins {
		all = append(all, in.ID)
	}
	return strings.Join(all, " ")
}

func recordIDs(t *testing.T, s registry.Store, page registry.Page) string {
	t.Helper()
	records, err := s.Records(t.Context(), page)
	if err != nil {
		t.Fatalf("Records(%+v): %v", page, err)
	}
	var all []string
	for _, r := range records {
		all = append(all, r.ID)
	}
	return strings.Join(all, " ")
}

// run runs a Store until the test ends.
func run(t *testing.T, s registry.Store) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}
