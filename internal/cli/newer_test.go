package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/cli/exit"
	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/trust/trusttest"
)

// newerField is a field that a newer broker has in its messages.
var newerField = protowire.AppendVarint(protowire.AppendTag(nil, 900, protowire.VarintType), 7)

func withNewerField[M proto.Message](m M) M {
	m.ProtoReflect().SetUnknown(newerField)
	return m
}

// newerBroker is a broker of a newer release, which has one integration. It has a field that
// this release does not know in the integration and in each part of it.
type newerBroker struct {
	secretbrokerv1.UnimplementedIntegrationServiceServer
	stored *secretbrokerv1.Integration
	masks  [][]string
}

func newNewerBroker(grants ...*secretbrokerv1.Grant) *newerBroker {
	settings, err := structpb.NewStruct(map[string]any{
		"tenant_id": "8d3f6a52-1c0b-4a7e-9f25-6b1e0c9d4a10", "client_id": "c2a97b14-5e6d-4f38-8b0a-73d5e1f2a649",
		"credential": map[string]any{"type": "client_secret"}, "vaults": []any{"https://my-vault.vault.azure.net"},
		"newer_setting": map[string]any{"a": "b"},
	})
	if err != nil {
		panic(err)
	}
	return &newerBroker{stored: withNewerField(&secretbrokerv1.Integration{
		Id: "prod", Kind: "AZURE_KEY_VAULT", Settings: settings, Etag: "e1",
		CredentialNames: []string{"azure.credential.client_secret"},
		Cache:           withNewerField(&secretbrokerv1.IntegrationCache{Ttl: durationpb.New(time.Minute), MaxStale: durationpb.New(time.Hour)}),
		Reads:           withNewerField(&secretbrokerv1.IntegrationReads{PerSecond: 5}),
		Placement:       withNewerField(&secretbrokerv1.Placement{Region: "westeurope"}),
		Grants:          grants,
		Roles:           []*secretbrokerv1.RoleBinding{withNewerField(&secretbrokerv1.RoleBinding{Role: secretbrokerv1.Role_ROLE_AUDITOR, Principals: []string{"dns:a.example.org"}})},
	})}
}

func (b *newerBroker) GetIntegration(context.Context, *secretbrokerv1.GetIntegrationRequest) (*secretbrokerv1.GetIntegrationResponse, error) {
	return &secretbrokerv1.GetIntegrationResponse{Integration: b.stored}, nil
}

func (b *newerBroker) ListIntegrations(context.Context, *secretbrokerv1.ListIntegrationsRequest) (*secretbrokerv1.ListIntegrationsResponse, error) {
	return &secretbrokerv1.ListIntegrationsResponse{Integrations: []*secretbrokerv1.Integration{b.stored}}, nil
}

// UpdateIntegration takes the fields of the mask from the request, as every broker does: a
// field of a message with all that is in it.
func (b *newerBroker) UpdateIntegration(_ context.Context, in *secretbrokerv1.UpdateIntegrationRequest) (*secretbrokerv1.UpdateIntegrationResponse, error) {
	if in.GetValidateOnly() {
		return &secretbrokerv1.UpdateIntegrationResponse{Integration: b.stored}, nil
	}
	b.masks = append(b.masks, in.GetUpdateMask().GetPaths())
	for _, path := range in.GetUpdateMask().GetPaths() {
		if setting, ok := strings.CutPrefix(path, "settings."); ok {
			b.stored.Settings.Fields[setting] = in.GetIntegration().GetSettings().GetFields()[setting]
			if b.stored.Settings.Fields[setting] == nil {
				delete(b.stored.Settings.Fields, setting)
			}
			continue
		}
		to, from := b.stored.ProtoReflect(), in.GetIntegration().ProtoReflect()
		section, name, nested := strings.Cut(path, ".")
		if nested {
			fd := to.Descriptor().Fields().ByTextName(section)
			to, from = to.Mutable(fd).Message(), from.Get(fd).Message()
			section = name
		}
		fd := to.Descriptor().Fields().ByTextName(section)
		if from.Has(fd) {
			to.Set(fd, from.Get(fd))
		} else {
			to.Clear(fd)
		}
	}
	return &secretbrokerv1.UpdateIntegrationResponse{Integration: b.stored, ChangedFields: in.GetUpdateMask().GetPaths()}, nil
}

// kept reports whether the integration still has the newer field everywhere.
func (b *newerBroker) kept() bool {
	parts := []proto.Message{b.stored, b.stored.GetCache(), b.stored.GetReads(), b.stored.GetPlacement(), b.stored.GetRoles()[0]}
	return !slices.ContainsFunc(parts, func(m proto.Message) bool { return !bytes.Equal(m.ProtoReflect().GetUnknown(), newerField) })
}

// serve starts the broker and returns the flags of commands that call it.
func (b *newerBroker) serve(t *testing.T) []string {
	t.Helper()
	ca := trusttest.NewCA(t, "test CA")
	own := ca.Issue(func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} })
	owner := ca.Issue(func(c *x509.Certificate) { c.DNSNames = []string{"owner.example.org"} })
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*own}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.Pool(),
	})))
	secretbrokerv1.RegisterIntegrationServiceServer(server, b)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(lis)
	}()
	t.Cleanup(func() { server.Stop(); <-done })
	dir := t.TempDir()
	flags := []string{"--addr", lis.Addr().String()}
	for flag, content := range map[string][]byte{"ca": ca.PEM(), "cert": trusttest.CertPEM(owner), "key": trusttest.KeyPEM(t, owner)} {
		flags = append(flags, "--"+flag, writeTemp(t, dir, flag+".pem", string(content)))
	}
	return flags
}

func writeTemp(t *testing.T, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// run runs a command and returns its output with its error, and its exit code.
func run(t *testing.T, args ...string) (output string, code int) {
	t.Helper()
	root := &cobra.Command{Use: "secretbroker", SilenceErrors: true, SilenceUsage: true}
	root.AddCommand(Commands(kinds.All())...)
	root.SetArgs(args)
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&out)
	err := root.ExecuteContext(t.Context())
	var e *exit.Error
	if errors.As(err, &e) {
		code = e.Code
	} else if err != nil {
		code = exit.Failure
	}
	if err != nil {
		out.WriteString(err.Error())
	}
	return out.String(), code
}

const newerFile = `id: prod
kind: AZURE_KEY_VAULT
azure:
  tenant_id: 8d3f6a52-1c0b-4a7e-9f25-6b1e0c9d4a10
  client_id: c2a97b14-5e6d-4f38-8b0a-73d5e1f2a649
  credential: {type: client_secret}
  vaults: [https://my-vault.vault.azure.net]
  newer_setting: {a: b}
cache: {ttl: 10m}
reads: {per_second: 5}
placement: {region: westeurope}
roles: {auditor: ['dns:a.example.org']}
grants:
  - principals: ['dns:b.example.org']
`

// An edit changes what it names. It keeps the fields of a newer broker that this version does
// not know.
func TestEditsKeepNewerFields(t *testing.T) {
	grant := func() *secretbrokerv1.Grant { return &secretbrokerv1.Grant{Principals: []string{"dns:b.example.org"}} }
	dir := t.TempDir()
	file := writeTemp(t, dir, "prod.yaml", newerFile)
	for _, tt := range []struct {
		name string
		args []string
		want []string
	}{
		{"set a section's setting", []string{"update", "prod", "--set", "cache.ttl=10m"}, []string{"cache.ttl"}},
		{"set a setting of the kind", []string{"update", "prod", "--set", "azure.vaults=https://a.vault.azure.net,https://b.vault.azure.net"}, []string{"settings.vaults"}},
		{"unset", []string{"update", "prod", "--unset", "cache.max_stale", "--unset", "azure.newer_setting.a"}, []string{"cache.max_stale", "settings.newer_setting"}},
		{"name", []string{"update", "prod", "--name", "Orders"}, []string{"display_name"}},
		{"credential", []string{"update", "prod", "--credential", "azure.credential.client_secret=" + file}, nil},
		{"file", []string{"update", "prod", "-f", file}, []string{"cache.max_stale", "cache.ttl"}},
		{"apply", []string{"apply", "-f", dir}, []string{"cache.max_stale", "cache.ttl"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newNewerBroker(grant())
			output, code := run(t, slices.Concat([]string{"integration"}, tt.args, b.serve(t))...)
			if code != exit.OK || len(b.masks) != 1 || !slices.Equal(b.masks[0], tt.want) {
				t.Errorf("exit code %d, masks %q, want %q; %s", code, b.masks, tt.want, output)
			}
			if !b.kept() {
				t.Errorf("the edit removed the fields of a newer broker: %v", b.stored)
			}
		})
	}
}

// An edit of a part that cannot be sent completely is refused: for example, a grant would lose
// its conditions.
func TestEditsRefuseToLoseNewerFields(t *testing.T) {
	conditional := withNewerField(&secretbrokerv1.Grant{Principals: []string{"dns:c.example.org"}})
	dir := t.TempDir()
	file := writeTemp(t, dir, "prod.yaml", newerFile)
	for _, tt := range []struct {
		name, part string
		args       []string
	}{
		{"file", "grants", []string{"update", "prod", "-f", file}},
		{"apply", "grants", []string{"apply", "-f", dir}},
		{"roles", "roles", []string{"update", "prod", "--set", "roles.auditor=dns:d.example.org"}},
		{"whole section", "cache", []string{"update", "prod", "--unset", "cache"}},
		{"export", "grants", []string{"export", "prod"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newNewerBroker(proto.CloneOf(conditional))
			output, code := run(t, slices.Concat([]string{"integration"}, tt.args, b.serve(t))...)
			if code == exit.OK || len(b.masks) > 0 {
				t.Errorf("exit code %d, masks %q", code, b.masks)
			}
			if !strings.Contains(output, tt.part) || !strings.Contains(output, "newer version") {
				t.Errorf("it does not say what to do: %s", output)
			}
		})
	}
}

// An integration of a kind that only a newer broker knows is reported as such.
func TestNewerKind(t *testing.T) {
	b := newNewerBroker()
	b.stored.Kind = "NEWER_KIND"
	output, code := run(t, append([]string{"integration", "describe", "prod", "-o", "json", "--resources", "0"}, b.serve(t)...)...)
	if code == exit.OK || !strings.Contains(output, "NEWER_KIND") {
		t.Errorf("exit code %d: %s", code, output)
	}
}
