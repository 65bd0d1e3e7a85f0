package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/cli/exit"
	"github.com/secretbroker/secretbroker/internal/connectorfile"
)

// Connection has the flags with which the client commands connect to a broker. Each flag
// except --timeout also has an environment variable.
type Connection struct {
	Addr string // host:port
	// CA, Cert and Key are PEM files.
	CA, Cert, Key string
	// ServerName is the name in the broker's certificate, "" for the host of Addr.
	ServerName string
	// Timeout limits a call including its retries; zero is the client's default.
	Timeout time.Duration
}

func (c *Connection) register(cmd *cobra.Command) {
	env := func(p *string, flag, variable, fallback, usage string) {
		if v := os.Getenv(variable); v != "" {
			fallback = v
		}
		cmd.Flags().StringVar(p, flag, fallback, usage+" ($"+variable+")")
	}
	env(&c.Addr, "addr", "SECRETBROKER_ADDR", "127.0.0.1:8443", "the broker's host:port")
	env(&c.CA, "ca", "SECRETBROKER_CA_FILE", "", "PEM file with the CA of the broker's certificate")
	env(&c.Cert, "cert", "SECRETBROKER_CERT_FILE", "", "PEM file with the client certificate")
	env(&c.Key, "key", "SECRETBROKER_KEY_FILE", "", "PEM file with the client certificate's key")
	env(&c.ServerName, "server-name", "SECRETBROKER_SERVER_NAME", "", "name in the broker's certificate, if not the host of --addr")
	durationVar(cmd.Flags(), &c.Timeout, "timeout", 10*time.Second, "timeout of a call, including retries")
	for _, flag := range []string{"ca", "cert", "key"} {
		_ = cmd.MarkFlagFilename(flag, "pem", "crt", "key") // the flag exists
	}
}

func (c *Connection) dial() (*client.Client, error) {
	var missing []string
	for _, f := range []struct{ flag, value string }{{"--ca", c.CA}, {"--cert", c.Cert}, {"--key", c.Key}} {
		if f.value == "" {
			missing = append(missing, f.flag)
		}
	}
	if len(missing) > 0 {
		return nil, &exit.Error{Code: exit.Usage, Err: fmt.Errorf(
			"%s missing: the broker requires mutual TLS; give --ca, --cert and --key, or set SECRETBROKER_CA_FILE, SECRETBROKER_CERT_FILE and SECRETBROKER_KEY_FILE",
			strings.Join(missing, ", "))}
	}
	cl, err := client.New(client.Config{
		Addrs:      []string{c.Addr},
		CAFile:     c.CA,
		CertFile:   c.Cert,
		KeyFile:    c.Key,
		ServerName: c.ServerName,
		Timeout:    c.Timeout,
	})
	if err != nil {
		return nil, &exit.Error{Code: exit.Usage, Err: err}
	}
	return cl, nil
}

// Resolve sends a request to the broker and prints the answer or the error like the
// resolve command: as a table with masked values.
func (c *Connection) Resolve(cmd *cobra.Command, req client.ResolveRequest) error {
	return c.resolve(cmd, &printer{output: "table"}, req)
}

func (c *Connection) resolve(cmd *cobra.Command, out *printer, req client.ResolveRequest) error {
	cl, err := c.dial()
	if err != nil {
		return err
	}
	defer cl.Close()
	res, err := cl.Resolve(cmd.Context(), req)
	if err != nil {
		return out.printError(cmd, err)
	}
	return out.printResponse(cmd, res)
}

// question has the flags of a request.
type question struct {
	integration, connector string
	maxAge                 time.Duration
	maxAgeGiven            func() bool
	aliases                []string
}

func (q *question) register(cmd *cobra.Command) {
	q.registerReferences(cmd)
	durationVar(cmd.Flags(), &q.maxAge, "max-age", 0, "maximum age of a cached value; 0s reads the store (default: the broker's cache settings)")
	q.maxAgeGiven = func() bool { return cmd.Flags().Changed("max-age") }
}

// registerReferences adds the flags that determine the references.
func (q *question) registerReferences(cmd *cobra.Command) {
	cmd.Flags().StringVar(&q.integration, "integration", "", "the provider integration to resolve through (default: the one that --file names)")
	cmd.Flags().StringSliceVar(&q.aliases, "alias", defaultAliases, "names of the broker's config provider in placeholders, ${ALIAS:INTEGRATION:REFERENCE}")
	cmd.Flags().StringVar(&q.connector, "connector", "", "the connector's name, for the audit log (default: the one in --file)")
}

func newResolveCommand() *cobra.Command {
	var (
		conn         Connection
		what         question
		out          printer
		file         string
		allowPartial bool
	)
	cmd := &cobra.Command{
		Use:   "resolve [NAME=REFERENCE ...]",
		Short: "Resolve references through a broker",
		Long: `Resolve references through a broker and print the values, masked unless --reveal is
given.

Give the references as NAME=REFERENCE, or name the configuration of a connector
with --file: JSON, YAML of Strimzi or Confluent for Kubernetes, or a .properties
file. The command finds the references in it: the configs that the secret.manager
properties list, and placeholders such as
${secretbroker:INTEGRATION:REFERENCE}. It sends nothing else to the broker.

--output value prints the value of a single reference in clear and nothing else.

Exit codes: 0 success; 1 other failure; 2 the command line is invalid; 3 denied;
4 a reference or the request is malformed; 5 no such secret, version or key;
6 the secret or the integration is not in a usable state; 7 no trusted broker
answers at the address; 8 try again later.`,
		Example: `  secretbroker resolve --integration cspi-sqlserver \
      'password=https://my-vault.vault.azure.net::sqlserver-db-secret::password'
  secretbroker resolve --file connector.json --output json
  secretbroker resolve --integration cspi-sqlserver --output value \
      password=https://my-vault.vault.azure.net::sqlserver-db-secret::password`,
		RunE: func(cmd *cobra.Command, args []string) error {
			set, found, err := what.setToResolve(args, file)
			switch {
			case err != nil:
				return &exit.Error{Code: exit.Usage, Err: err}
			case !found:
				fmt.Fprintln(cmd.ErrOrStderr(), "no references to resolve")
				return nil
			case len(set.faults) > 0:
				return out.printError(cmd, &client.Error{Code: codes.InvalidArgument, Reason: client.ReasonInvalidReference, Configs: set.faults})
			}
			req := what.request(&set)
			req.AllowPartial = allowPartial
			return conn.resolve(cmd, &out, req)
		},
	}
	conn.register(cmd)
	what.register(cmd)
	out.register(cmd)
	cmd.Flags().StringVarP(&file, "file", "f", "", "configuration of a connector: JSON, YAML or a .properties file; - is standard input")
	cmd.Flags().BoolVar(&allowPartial, "allow-partial", false, "resolve the other configs if some fail")
	_ = cmd.MarkFlagFilename("file", "json", "yaml", "yml", "properties") // the flag exists
	return cmd
}

var errArgsAndFile = errors.New("give references as arguments or with --file, not both")

// readConnectors reads the configurations in a file. The error does not name the file and
// may be a *connectorfile.Error.
func readConnectors(file string) ([]connectorfile.Connector, error) {
	data, err := readRegular(file)
	if err != nil {
		if pe, ok := errors.AsType[*fs.PathError](err); ok {
			err = pe.Err
		}
		return nil, err
	}
	return connectorfile.Parse(file, data)
}

// readRegular reads a regular file, or standard input if file is "-", up to one byte more
// than the size limit. A pull request may name the file, so it must not be a pipe that never
// ends.
func readRegular(file string) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(io.LimitReader(os.Stdin, connectorfile.MaxSize+1))
	}
	info, err := os.Stat(file) // before opening, which would block on a pipe
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, connectorfile.MaxSize+1))
}

// configsOfArgs reads NAME=REFERENCE arguments.
func configsOfArgs(args []string) (map[string]string, error) {
	if len(args) == 0 {
		return nil, errors.New("nothing to resolve; give NAME=REFERENCE, or --file with a connector's configuration")
	}
	configs := make(map[string]string, len(args))
	for i, arg := range args {
		name, ref, ok := strings.Cut(arg, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("argument %d: expected NAME=REFERENCE", i+1)
		}
		if _, ok := configs[name]; ok {
			return nil, fmt.Errorf("argument %d: %s is given twice", i+1, name)
		}
		configs[name] = ref
	}
	return configs, nil
}

// exitCodeOf returns the exit code for the error of a call.
func exitCodeOf(err error) int {
	var e *client.Error
	if !errors.As(err, &e) {
		return exit.Failure
	}
	if e.Reason == "" && (e.Code == codes.Unavailable || e.Code == codes.DeadlineExceeded) {
		return exit.Unreachable // what answered is not a broker
	}
	return ExitCodeOfReason(e.Reason)
}

// worstExitCode returns the exit code for several failures. Failures that need a fix take
// precedence over those that only need a retry, as in the broker's own table of errors.
func worstExitCode(errs []client.ConfigError) int {
	order := []int{exit.Failure, exit.BadReference, exit.Denied, exit.Precondition, exit.NotFound, exit.TryLater}
	worst := len(order) - 1
	for _, e := range errs {
		if i := slices.Index(order, ExitCodeOfReason(e.Reason)); i >= 0 {
			worst = min(worst, i)
		}
	}
	return order[worst]
}

// ExitCodeOfReason returns the exit code for a reason of docs/errors.md.
func ExitCodeOfReason(reason client.Reason) int {
	switch reason {
	case client.ReasonUnauthenticated, client.ReasonCertificateDenied, client.ReasonAccessDenied, client.ReasonStoreNotAllowed, client.ReasonCertificateRefused,
		client.ReasonPlacementDenied:
		return exit.Denied
	case client.ReasonInvalidReference, client.ReasonConfigMismatch, client.ReasonInvalidRequest, client.ReasonInvalidIntegration:
		return exit.BadReference
	case client.ReasonSecretNotFound, client.ReasonJSONKeyNotFound, client.ReasonIntegrationNotFound, client.ReasonDenialNotFound:
		return exit.NotFound
	case client.ReasonSecretDisabled, client.ReasonSecretExpired, client.ReasonSecretNotYetValid, client.ReasonSecretTooLarge, client.ReasonSecretNotJSON, client.ReasonSecretNotDecodable, client.ReasonSecretNotWatchable,
		client.ReasonStoreAccessDenied, client.ReasonStoreAuthenticationFailed, client.ReasonStoreNotFound,
		client.ReasonIntegrationExists, client.ReasonIntegrationChanged, client.ReasonIntegrationInUse, client.ReasonIntegrationReadOnly,
		client.ReasonOwnerLockout, client.ReasonQuotaExceeded:
		return exit.Precondition
	case client.ReasonBrokerUnreachable, client.ReasonBrokerNotTrusted:
		return exit.Unreachable
	case client.ReasonStoreThrottled, client.ReasonOverloaded, client.ReasonStoreUnavailable, client.ReasonAuditUnavailable, client.ReasonRegistryUnavailable:
		return exit.TryLater
	default:
		return exit.Failure
	}
}
