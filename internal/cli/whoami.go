package cli

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/certfile"
	"github.com/secretbroker/secretbroker/internal/cli/exit"
	"github.com/secretbroker/secretbroker/internal/cli/terminal"
	"github.com/secretbroker/secretbroker/internal/denial"
)

type (
	// CertificateJSON is a client certificate as its file shows it.
	CertificateJSON struct {
		// Principal is what a broker takes as the caller, unless its trust domain differs.
		Principal string `json:"principal,omitempty"`
		// Problem is why a broker does not accept the certificate.
		Problem  string    `json:"problem,omitempty"`
		Subject  string    `json:"subject"`
		URIs     []string  `json:"uris,omitempty"`
		DNSNames []string  `json:"dns_names,omitempty"`
		Issuer   string    `json:"issuer"`
		Serial   string    `json:"serial"`
		SHA256   string    `json:"sha256"`
		NotAfter time.Time `json:"not_after"`
		// ClientAuth: the certificate may be used by clients.
		ClientAuth bool `json:"client_auth"`
	}
	// BrokerViewJSON is the caller as a broker sees it.
	BrokerViewJSON struct {
		Principal          string     `json:"principal,omitempty"`
		Problem            string     `json:"problem,omitempty"`
		CertificateSHA256  string     `json:"certificate_sha256"`
		CertificateExpires time.Time  `json:"certificate_expire_time"`
		Roles              []RoleJSON `json:"roles"`
		UsableIntegrations int        `json:"usable_integration_count"`
		BrokerVersion      string     `json:"broker_version"`
		BrokerTime         time.Time  `json:"broker_time"`
		// ClockSkewSeconds is how far this machine's clock is ahead of the broker's, to
		// about half the time of the call.
		ClockSkewSeconds float64 `json:"clock_skew_seconds"`
		RequestID        string  `json:"request_id"`
	}
	// RoleJSON is a role of the caller.
	RoleJSON struct {
		Role             string `json:"role"`
		AllIntegrations  bool   `json:"all_integrations"`
		IntegrationCount int    `json:"integration_count,omitempty"`
	}
	// WhoAmIJSON is the JSON output of whoami.
	WhoAmIJSON struct {
		Certificate CertificateJSON `json:"certificate"`
		Broker      *BrokerViewJSON `json:"broker,omitempty"`
		Error       *ErrorJSON      `json:"error,omitempty"`
	}
)

func newWhoAmICommand() *cobra.Command {
	var (
		conn   Connection
		output string
		local  bool
	)
	cmd := &cobra.Command{
		Use:   "whoami",
		Short: "Show who this client is, by its certificate and for the broker",
		Long: `Show the client certificate of --cert, and who the broker takes its holder for: the
principal, its roles, the number of integrations that it may use, and the broker's
version and clock. With --local, or without --key and --ca, the command reads only
the certificate, and needs neither a key nor a broker.

Exit codes: 0 success; 2 the command line or the certificate's file is invalid;
3 the broker refuses the certificate; 7 no trusted broker answers at the address;
8 try again later; 1 other failure.`,
		Example: `  secretbroker whoami
  secretbroker whoami --local --cert leaked.pem`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := WhoAmIJSON{}
			var err error
			if out.Certificate, err = readOwnCertificate(conn.Cert); err != nil {
				return &exit.Error{Code: exit.Usage, Err: err}
			}
			var failed error
			if !local && (conn.CA != "" || conn.Key != "") {
				if out.Broker, failed, err = askBroker(cmd, &conn); err != nil {
					return err
				}
			}
			return printWhoAmI(cmd, output, &out, failed)
		},
	}
	conn.register(cmd)
	terminal.RegisterOutput(cmd, &output, "table", "json")
	cmd.Flags().BoolVar(&local, "local", false, "read only the certificate, without asking a broker")
	return cmd
}

// readOwnCertificate reads the first certificate of a file.
func readOwnCertificate(path string) (CertificateJSON, error) {
	if path == "" {
		return CertificateJSON{}, errors.New("--cert missing: give the file of the client certificate, or set SECRETBROKER_CERT_FILE")
	}
	data, err := readRegular(path)
	if err != nil {
		return CertificateJSON{}, fmt.Errorf("--cert: %w", err)
	}
	leaf := certfile.First(data)
	if leaf == nil {
		return CertificateJSON{}, fmt.Errorf("--cert: %s contains no PEM certificate", path)
	}
	who, problem := authz.PrincipalOf(leaf, authz.IdentityRules{})
	c := denial.CertificateOf(leaf, who)
	out := CertificateJSON{
		Principal: string(who), Problem: problem, Subject: leaf.Subject.String(), DNSNames: leaf.DNSNames, Issuer: c.Issuer, Serial: c.Serial, SHA256: c.SHA256,
		NotAfter: leaf.NotAfter.UTC(), ClientAuth: certfile.Permits(leaf, x509.ExtKeyUsageClientAuth),
	}
	for _, uri := range leaf.URIs {
		out.URIs = append(out.URIs, uri.String())
	}
	switch now := time.Now(); {
	case out.Problem != "":
	case !out.ClientAuth:
		out.Problem = "the certificate is not for clients: its extended key usage lacks clientAuth; issue one with clientAuth"
	case now.After(leaf.NotAfter):
		out.Problem = "the certificate has expired; renew it"
	case now.Before(leaf.NotBefore):
		out.Problem = "the certificate is not valid yet; check the clock"
	}
	return out, nil
}

// askBroker returns how the broker sees the caller, or the error of the call. err is an error
// before the call.
func askBroker(cmd *cobra.Command, conn *Connection) (view *BrokerViewJSON, failed, err error) {
	cl, err := conn.dial()
	if err != nil {
		return nil, nil, err
	}
	defer cl.Close()
	begin := time.Now()
	res, failed := cl.WhoAmI(cmd.Context(), client.WhoAmIRequest{})
	if failed != nil {
		return nil, failed, nil
	}
	middle := begin.Add(time.Since(begin) / 2)
	view = &BrokerViewJSON{
		Principal: res.Principal, Problem: res.Problem, CertificateSHA256: res.Certificate.SHA256, CertificateExpires: res.Certificate.ExpireTime, Roles: []RoleJSON{},
		UsableIntegrations: res.UsableIntegrations, BrokerVersion: res.BrokerVersion, BrokerTime: res.BrokerTime,
		ClockSkewSeconds: middle.Round(0).Sub(res.BrokerTime).Round(time.Millisecond).Seconds(), RequestID: res.RequestID,
	}
	for _, r := range res.Roles {
		view.Roles = append(view.Roles, RoleJSON(r))
	}
	return view, nil, nil
}

// printWhoAmI prints what is known, also if the call of the broker failed.
func printWhoAmI(cmd *cobra.Command, output string, out *WhoAmIJSON, failed error) error {
	if output == "json" {
		if e, ok := errors.AsType[*client.Error](failed); ok {
			out.Error = &ErrorJSON{Reason: string(e.Reason), Message: e.Message, RetryDelaySeconds: e.RetryAfter.Seconds()}
		}
		if err := terminal.PrintJSON(cmd.OutOrStdout(), out); err != nil {
			return &exit.Error{Code: exit.Failure, Err: err}
		}
		if failed != nil {
			return &exit.Error{Code: exitCodeOf(failed)}
		}
		return nil
	}
	if err := tableOfCertificate(cmd.OutOrStdout(), &out.Certificate); err != nil {
		return &exit.Error{Code: exit.Failure, Err: err}
	}
	if failed != nil {
		p := printer{output: output}
		return p.printError(cmd, failed)
	}
	if out.Broker == nil {
		return nil
	}
	if err := tableOfBroker(cmd.OutOrStdout(), out.Broker); err != nil {
		return &exit.Error{Code: exit.Failure, Err: err}
	}
	return nil
}

func tableOfCertificate(w io.Writer, c *CertificateJSON) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, value string) { fmt.Fprintf(t, "%s:\t%s\n", name, terminal.OrDash(value)) }
	row("Principal", c.Principal)
	if c.Problem != "" {
		row("Problem", c.Problem)
	}
	row("Subject", c.Subject)
	row("Issuer", c.Issuer)
	row("Serial", c.Serial)
	row("SHA-256", c.SHA256)
	row("Not after", c.NotAfter.Format(time.RFC3339))
	row("For clients", yesNo(c.ClientAuth))
	return t.Flush()
}

func tableOfBroker(w io.Writer, b *BrokerViewJSON) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, value string) { fmt.Fprintf(t, "%s:\t%s\n", name, terminal.OrDash(value)) }
	fmt.Fprintln(t, "\nFor the broker")
	row("Principal", b.Principal)
	if b.Problem != "" {
		row("Problem", b.Problem)
	}
	var roles []string
	for _, r := range b.Roles {
		if r.AllIntegrations {
			roles = append(roles, r.Role+" for all integrations")
		} else {
			roles = append(roles, fmt.Sprintf("%s on %d integration(s)", r.Role, r.IntegrationCount))
		}
	}
	row("Roles", strings.Join(roles, ", "))
	row("May use", fmt.Sprintf("%d integration(s)", b.UsableIntegrations))
	row("Certificate", "valid until "+b.CertificateExpires.Format(time.RFC3339))
	row("Broker", b.BrokerVersion)
	skew := time.Duration(b.ClockSkewSeconds * float64(time.Second)).Round(time.Second)
	clock := b.BrokerTime.Format(time.RFC3339)
	if skew != 0 {
		clock += fmt.Sprintf(" (this machine's clock differs by %s)", skew)
	}
	row("Broker's clock", clock)
	return t.Flush()
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
