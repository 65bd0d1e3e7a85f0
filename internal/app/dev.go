package app

import (
	"context"
	"fmt"
	"io"
	"os"
	"text/template"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/examples"
	"github.com/secretbroker/secretbroker/internal/cli"
	"github.com/secretbroker/secretbroker/internal/config"
	"github.com/secretbroker/secretbroker/internal/connectorfile"
	"github.com/secretbroker/secretbroker/internal/devmode"
)

// devFlags are the flags of "secretbroker dev".
type devFlags struct {
	dir, listen, adminListen, vaultListen string
	insecureListen, once                  bool
	logs                                  logFlags
}

func newDevCommand() *cobra.Command {
	var flags devFlags
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a broker with an embedded Key Vault for tests and development",
		Long: `Run the broker with a sample configuration: an embedded Azure Key Vault, AWS Secrets
Manager and Google Cloud Secret Manager with sample secrets, a file with a local
secret, temporary certificates, and integrations that one of two sample workers may
use. All of it is in files in --dir; you can edit the integrations and the secrets
while the broker runs.

With --once, the command resolves the sample connector configuration with a real
call, prints the answer with masked values, and exits. By default it then uses a
temporary directory and free ports.

The embedded stores are for development only: never put a real secret into them.
For the same reason dev refuses a --dir that other users can write to, and
addresses that other machines can reach unless --insecure-listen is given.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runDev(cmd, flags) },
	}
	f := cmd.Flags()
	f.StringVar(&flags.dir, "dir", devmode.DefaultDir, "directory for the configuration, certificates and secrets")
	f.StringVar(&flags.listen, "listen", devmode.DefaultListen, "address of the broker, gRPC")
	f.StringVar(&flags.adminListen, "admin-listen", devmode.DefaultAdminListen, "address of the admin endpoint, HTTP")
	f.StringVar(&flags.vaultListen, "vault-listen", "", "loopback address of the embedded Key Vault (default "+devmode.DefaultVaultListen+", or the address in the integration's file)")
	f.BoolVar(&flags.insecureListen, "insecure-listen", false, "allow addresses in --listen and --admin-listen that other machines can reach")
	f.BoolVar(&flags.once, "once", false, "resolve the sample connector once, print it and exit")
	_ = cmd.MarkFlagDirname("dir") // the flag exists
	flags.logs.register(cmd)
	return cmd
}

func runDev(cmd *cobra.Command, flags devFlags) (err error) {
	if flags.once {
		cleanUp, err := forOnce(cmd, &flags)
		if err != nil {
			return &exitError{Code: exitFailure, Err: err}
		}
		defer cleanUp()
	}
	log, err := flags.logs.logger(cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	env, err := devmode.Start(cmd.Context(), devmode.Options{
		Dir:            flags.dir,
		Listen:         flags.listen,
		AdminListen:    flags.adminListen,
		InsecureListen: flags.insecureListen,
		VaultListen:    flags.vaultListen,
		GoogleCloud:    true,
		AWS:            true,
		LocalFiles:     true,
		Logger:         log,
	})
	if err != nil {
		return &exitError{Code: exitFailure, Err: err}
	}
	defer closing(&err, env.Close)
	cfg, err := config.Load(env.ConfigFile)
	if err != nil {
		return &exitError{Code: exitUsage, Err: err}
	}
	if err := harden(cfg, log); err != nil {
		return err
	}

	// From here on the command runs like "secretbroker serve". The additions of dev run in
	// parallel once the broker is ready.
	parts := newGroup(cmd.Context())
	ready := make(chan listening, 1)
	ctx, stop := context.WithCancel(parts.ctx)
	defer stop()
	parts.run("broker", func(context.Context) error {
		return serve(ctx, cfg, log, process{onReady: func(l listening) { ready <- l }})
	})
	parts.run("dev", func(ctx context.Context) error {
		select {
		case <-ctx.Done():
			return nil
		case l := <-ready:
			if !flags.once {
				return printWelcome(cmd.OutOrStdout(), env, l)
			}
			defer stop()
			return resolveSample(cmd, env, l)
		}
	})
	return parts.wait()
}

// forOnce makes a single run independent of other brokers on the machine, unless flags
// say otherwise.
func forOnce(cmd *cobra.Command, flags *devFlags) (cleanUp func(), err error) {
	free := func(flag string, address *string) {
		if !cmd.Flags().Changed(flag) {
			*address = "127.0.0.1:0"
		}
	}
	free("listen", &flags.listen)
	free("admin-listen", &flags.adminListen)
	free("vault-listen", &flags.vaultListen)
	if !cmd.Flags().Changed("log-level") {
		flags.logs.level = "warn"
	}
	if cmd.Flags().Changed("dir") {
		return func() {}, nil
	}
	dir, err := os.MkdirTemp("", "secretbroker-")
	if err != nil {
		return nil, err
	}
	flags.dir = dir
	return func() { _ = os.RemoveAll(dir) }, nil // the system cleans up as well
}

// resolveSample resolves the configuration of the sample connector like a connector
// runtime.
func resolveSample(cmd *cobra.Command, env *devmode.Environment, l listening) error {
	const sample = "sqlserver-cdc.json"
	data, err := examples.Files.ReadFile(sample)
	if err != nil {
		return err
	}
	connectors, err := connectorfile.Parse(sample, data)
	if err != nil {
		return err
	}
	connector := connectors[0]
	conn := cli.Connection{Addr: l.addr.String(), CA: env.CAFile, Cert: env.Worker.CertFile, Key: env.Worker.KeyFile}
	return conn.Resolve(cmd, client.ResolveRequest{
		IntegrationID: connector.IntegrationID(),
		Configs:       connector.Managed(),
		Connector:     connector.Name,
	})
}

var welcome = template.Must(template.New("welcome").Parse(`ready

  broker          {{.Addr}} (gRPC, mutual TLS)
  admin           http://{{.AdminAddr}}/readyz  /metrics
  configuration   {{.Env.ConfigFile}}
  integration     {{.Env.IntegrationFile}}  (edit it: grants take effect at once)
  secrets         {{.Env.SecretsFile}}  (edit it: the next read sees the change)
  AWS             {{.Env.AWS.IntegrationFile}}, its secrets in {{.Env.AWS.SecretsFile}}
  Google Cloud    {{.Env.Google.IntegrationFile}}, its secrets in {{.Env.Google.SecretsFile}}
{{with .Env.Local}}  local files     {{.IntegrationFile}}, reads {{.File}} as {{.Reference}}
{{end}}  audit           {{.Env.Dir}}/audit.jsonl
  certificates    {{.Env.Worker.CertFile}} is granted, {{.Env.OtherWorker.CertFile}} is not

Resolve the sample connector:
  secretbroker resolve --addr {{.Addr}} --ca {{.Env.CAFile}} --cert {{.Env.Worker.CertFile}} --key {{.Env.Worker.KeyFile}} --file examples/sqlserver-cdc.json
  (without a built broker: go run ./cmd/broker resolve ...)

Be told when its password changes (edit {{.Env.SecretsFile}}):
  secretbroker watch --addr {{.Addr}} --ca {{.Env.CAFile}} --cert {{.Env.Worker.CertFile}} --key {{.Env.Worker.KeyFile}} --file examples/sqlserver-cdc.json

With grpcurl:
  grpcurl -cacert {{.Env.CAFile}} -cert {{.Env.Worker.CertFile}} -key {{.Env.Worker.KeyFile}} -d '{"integration_id":"{{.Env.IntegrationID}}","configs":{"database.password":"{{.Vault}}::sqlserver-db-secret::password"}}' {{.Addr}} secretbroker.v1.ResolverService/Resolve

As a worker without a grant (denied):
  grpcurl -cacert {{.Env.CAFile}} -cert {{.Env.OtherWorker.CertFile}} -key {{.Env.OtherWorker.KeyFile}} -d '{"integration_id":"{{.Env.IntegrationID}}","configs":{"database.password":"{{.Vault}}::sqlserver-db-secret::password"}}' {{.Addr}} secretbroker.v1.ResolverService/Resolve

Under load, with ghz:
  ghz --cacert {{.Env.CAFile}} --cert {{.Env.Worker.CertFile}} --key {{.Env.Worker.KeyFile}} --call secretbroker.v1.ResolverService.Resolve -d '{"integration_id":"{{.Env.IntegrationID}}","configs":{"database.password":"{{.Vault}}::sqlserver-db-secret::password"}}' -c 50 -n 20000 {{.Addr}}

Stop with Ctrl-C.
`))

func printWelcome(w io.Writer, env *devmode.Environment, l listening) error {
	if err := welcome.Execute(w, map[string]any{
		"Env":       env,
		"Addr":      l.addr.String(),
		"AdminAddr": l.adminAddr.String(),
		"Vault":     devmode.VaultURL,
	}); err != nil {
		return fmt.Errorf("print where everything is: %w", err)
	}
	return nil
}
