//go:build unix

package app

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/cli/exit"
	"github.com/secretbroker/secretbroker/internal/devmode"
	"github.com/secretbroker/secretbroker/internal/registry/seal"
)

// The commands of docs/operations.md, see TestDocumentedCommands.
var (
	sqliteBackup    = `sqlite3 registry.db ".backup registry.backup"`
	sqliteRestore   = `sqlite3 registry.db ".restore registry.backup"`
	sqlitePutBack   = `rm -f registry.db-wal registry.db-shm && install -m 600 registry.backup registry.db`
	postgresBackup  = `pg_dump --format=custom --file=registry.backup "$DATABASE_URL"`
	postgresRestore = `pg_restore --clean --if-exists --single-transaction --exit-on-error --dbname="$DATABASE_URL" registry.backup`
)

// TestDocumentedCommands: what the documentation says is what is tested.
func TestDocumentedCommands(t *testing.T) {
	data, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{sqliteBackup, sqliteRestore, sqlitePutBack, postgresBackup, postgresRestore} {
		if !strings.Contains(string(data), "\n    "+command+"\n") {
			t.Errorf("docs/operations.md does not have: %s", command)
		}
	}
}

// shell runs a documented command where the database of db is registry.db, or
// $DATABASE_URL.
func (db *testDatabase) shell(t *testing.T, command string) {
	t.Helper()
	program, _, _ := strings.Cut(command, " ")
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("the command needs %s: %v", program, err)
	}
	cmd := exec.Command("sh", "-ec", command)
	cmd.Dir = filepath.Dir(db.keyFile)
	if db.file != "" {
		cmd.Dir = filepath.Dir(db.file)
	} else {
		cmd.Env = append(os.Environ(), "DATABASE_URL="+db.server.URL("postgres"))
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
}

func (db *testDatabase) backup(t *testing.T) {
	t.Helper()
	if db.file != "" {
		db.shell(t, sqliteBackup)
	} else {
		db.shell(t, postgresBackup)
	}
}

// restore restores the backup while brokers run.
func (db *testDatabase) restore(t *testing.T) {
	t.Helper()
	if db.file != "" {
		db.shell(t, sqliteRestore)
	} else {
		db.shell(t, postgresRestore)
	}
}

// putBack restores the backup while no broker runs.
func (db *testDatabase) putBack(t *testing.T) {
	t.Helper()
	if db.file != "" {
		db.shell(t, sqlitePutBack)
	} else {
		db.shell(t, postgresRestore)
	}
}

// broker starts one that keeps its integrations in the database.
func (db *testDatabase) broker(t *testing.T, dir string) *broker {
	t.Helper()
	b, err := startBroker(context.Background(), dir, func(env *devmode.Environment) error {
		err := seal.Create(filepath.Join(env.Dir, "registry.key"))
		if err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		return edit(env.ConfigFile, "registry: {directory: {path: integrations/}}", "registry: {"+db.entry+", seal: {key_file: registry.key}, allowed_files: [keyvault-ca.pem]}")
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.stop() })
	return b
}

// managed is an integration with a stored credential. No test reads its store.
func managed(id string, grants ...client.Grant) *client.Integration {
	return &client.Integration{
		ID: id, Kind: "AZURE_KEY_VAULT", Grants: grants,
		Settings: map[string]any{
			"tenant_id": "11111111-2222-3333-4444-555555555555", "client_id": "66666666-7777-8888-9999-aaaaaaaaaaaa",
			"credential": map[string]any{"type": "client_secret"}, "vaults": []any{"https://abc.vault.azure.net"},
		},
		Credentials: map[string][]byte{"azure.credential.client_secret": []byte("pl4nted-Secret")},
	}
}

func grantTo(principal string) client.Grant { return client.Grant{Principals: []string{principal}} }

// changesSinceBackup creates five integrations, a backup of them, and changes that a restore
// undoes.
func changesSinceBackup(t *testing.T, db *testDatabase, owner *client.Client) {
	t.Helper()
	ctx := t.Context()
	check := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{"revoked", "deleted", "rotated", "changed", "same"} {
		in := managed(id, grantTo("dns:stays.example.org"), grantTo("dns:goes.example.org"))
		check(owner.CreateIntegration(ctx, client.CreateIntegrationRequest{Integration: in}))
	}
	db.backup(t)
	check(owner.RevokeUse(ctx, client.RevokeUseRequest{IntegrationID: "revoked", Grant: grantTo("dns:goes.example.org")}))
	check(owner.GrantUse(ctx, client.GrantUseRequest{IntegrationID: "revoked", Grant: grantTo("dns:new.example.org")}))
	check(owner.DeleteIntegration(ctx, client.DeleteIntegrationRequest{IntegrationID: "deleted"}))
	check(owner.CreateIntegration(ctx, client.CreateIntegrationRequest{Integration: managed("created")}))
	rotated := managed("rotated", grantTo("dns:stays.example.org"), grantTo("dns:goes.example.org"))
	rotated.Credentials = map[string][]byte{"azure.credential.client_secret": []byte("n3w-Secret")}
	check(owner.UpdateIntegration(ctx, client.UpdateIntegrationRequest{Integration: rotated, Mask: []string{"*"}}))
	check(owner.UpdateIntegration(ctx, client.UpdateIntegrationRequest{Integration: &client.Integration{ID: "changed", DisplayName: "another name"}, Mask: []string{"display_name"}}))
}

// TestAuditCompare restores a backup and compares the database with the audit log.
func TestAuditCompare(t *testing.T) {
	databases(t, func(t *testing.T, db *testDatabase) {
		dir := t.TempDir()
		b := db.broker(t, dir)
		owner := b.as(t, b.Owner)
		changesSinceBackup(t, db, owner)
		compare := []string{"audit", "compare", "--config", b.ConfigFile, filepath.Join(dir, "audit.jsonl")}
		if code, stdout, stderr := command(t, compare...); code != exitOK || !strings.Contains(stdout, "no differences: 5 integration(s)") {
			t.Fatalf("before the restore: %d\n%s%s", code, stdout, stderr)
		}
		if err := b.stop(); err != nil {
			t.Fatal(err)
		}
		db.putBack(t)

		code, stdout, stderr := command(t, compare...)
		for _, want := range []string{
			`revoked +grant is back +grants\[1\] +- +{"principals":\["dns:goes.example.org"\]} +\S+ GrantUse by spiffe:`,
			`revoked +grant is missing +grants\[1\] +{"principals":\["dns:new.example.org"\]}`,
			`deleted +is back although it was deleted +- +- +- +\S+ DeleteIntegration by`,
			`deleted +grant is back +grants\[0\]`,
			`created +is missing`,
			`rotated +credential is older than its last replacement +azure.credential.client_secret`,
			`changed +setting differs +display_name +another name +-`,
			`8 difference\(s\): 5 integration\(s\) compared with \d+ recorded change\(s\)`,
		} {
			if !matches(stdout, want) {
				t.Errorf("no line %s", want)
			}
		}
		if code != exit.Findings || strings.Contains(stdout, "same") || strings.Contains(stdout+stderr, "Secret") || strings.Contains(stdout, "no record") {
			t.Errorf("%d\n%s%s", code, stdout, stderr)
		}

		code, stdout, _ = command(t, append(compare, "--output", "json")...)
		var out struct {
			OK       bool
			Findings []struct {
				IntegrationID string `json:"integration_id"`
				Kind, Setting string
				Last          struct{ Method, Principal string } `json:"last_change"`
			}
			Unrecorded []string
		}
		if err := json.Unmarshal([]byte(stdout), &out); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range out.Findings {
			got = append(got, strings.TrimSpace(f.IntegrationID+" "+f.Kind+" "+f.Setting))
			if f.Last.Method == "" || f.Last.Principal != b.Owner.ID {
				t.Errorf("last change of %+v", f)
			}
		}
		want := []string{
			"changed setting_differs display_name", "created integration_lost",
			"deleted integration_returned", "deleted grant_returned grants[0]", "deleted grant_returned grants[1]",
			"revoked grant_returned grants[1]", "revoked grant_lost grants[1]", "rotated credential_old azure.credential.client_secret",
		}
		if diff := cmp.Diff(want, got); diff != "" || code != exit.Findings || out.OK {
			t.Errorf("%d %v %s", code, out.OK, diff)
		}

		// Without the logs nothing can be compared.
		empty := filepath.Join(dir, "empty.jsonl")
		if err := os.WriteFile(empty, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		code, stdout, _ = command(t, append(slices.Clone(compare[:4]), empty)...)
		if code != exitOK || !strings.Contains(stdout, "no record of 5 integration(s): changed, deleted,") {
			t.Errorf("%d\n%s", code, stdout)
		}
	})
}

func matches(text, pattern string) bool {
	return regexp.MustCompile(`(?m)^` + pattern).MatchString(text)
}

// TestRestoreIsReported restores a backup under a running broker, and then under a stopped
// one: /readyz, the log and the audit log report it. SIGHUP clears /readyz.
func TestRestoreIsReported(t *testing.T) {
	databases(t, func(t *testing.T, db *testDatabase) {
		dir := t.TempDir()
		b := db.broker(t, dir)
		owner := b.as(t, b.Owner)
		changesSinceBackup(t, db, owner)
		db.restore(t)
		// The broker writes the records when it first reads the restored database.
		asynctest.Eventually(t, "/readyz reports it", func() bool { return strings.Contains(b.get(t, "/readyz"), "has gone back") })
		asynctest.Eventually(t, "the audit log has it", func() bool { return strings.Count(b.auditText(t), `"method":"RegistryRestored"`) == 6 })
		if text := b.get(t, "/readyz"); !strings.Contains(text, "5 integration(s) differ: 3 grant(s) are in force again, 1 integration(s) came back, 1 are gone") {
			t.Errorf("readyz: %s", text)
		}
		if !strings.Contains(b.log.String(), "level=WARN msg=\"the integrations' database has gone back") {
			t.Error("no warning in the log")
		}
		for id, want := range map[string]string{
			"revoked": `grants that are in force again: {\"principals\":[\"dns:goes.example.org\"]}; grants that are gone: {\"principals\":[\"dns:new.example.org\"]}`,
			"deleted": `the integration came back; grants that are in force again: `,
			"created": `the integration is gone`,
			"rotated": `it was written at another time, and may have other credentials`,
		} {
			line := lineWith(b.auditText(t), `"method":"RegistryRestored"`, `"integration_id":"`+id+`"`)
			if !strings.Contains(line, want) || !strings.Contains(line, `"outcome":"changed"`) || strings.Contains(line, "Secret") {
				t.Errorf("%s: no %s in %s", id, want, line)
			}
		}
		b.hangups <- syscall.SIGHUP
		asynctest.Eventually(t, "SIGHUP clears /readyz", func() bool { return !strings.Contains(b.get(t, "/readyz"), "has gone back") })

		// The restored grant is in effect and can be revoked again.
		if out, err := owner.RevokeUse(t.Context(), client.RevokeUseRequest{IntegrationID: "revoked", Grant: grantTo("dns:goes.example.org")}); err != nil || len(out.Integration.Grants) != 1 {
			t.Errorf("revoked again: %+v, %v", out, err)
		}
		if err := b.stop(); err != nil {
			t.Fatal(err)
		}
		db.putBack(t)
		b = db.broker(t, dir)
		if text := b.get(t, "/readyz"); !strings.Contains(text, "has gone back") || !strings.Contains(text, "while this broker was stopped") {
			t.Errorf("readyz after a start: %s", text)
		}
		asynctest.Eventually(t, "the audit log has it", func() bool { return strings.Count(b.auditText(t), `"method":"RegistryRestored"`) == 7 })
		if err := b.stop(); err != nil {
			t.Fatal(err)
		}
		b = db.broker(t, dir)
		if text := b.get(t, "/readyz"); strings.Contains(text, "has gone back") {
			t.Errorf("readyz after another start: %s", text)
		}
		if code, stdout, stderr := command(t, "audit", "verify", filepath.Join(dir, "audit.jsonl")); code != exitOK {
			t.Errorf("audit verify: %s%s", stdout, stderr)
		}
	})
}

// lineWith returns the first line with all of these texts.
func lineWith(text string, parts ...string) string {
	for line := range strings.Lines(text) {
		if !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(line, p) }) {
			return line
		}
	}
	return ""
}
