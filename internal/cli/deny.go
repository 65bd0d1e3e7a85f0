package cli

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
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

const denyHelp = `Manage the deny list of running brokers: client certificates and principals that
they refuse although the certificates are valid, for example because a key has
leaked. A denial is in effect on every replica within a second, also on open
connections, which the broker closes.

This requires the role RESOURCE_OWNER for all integrations, and brokers with a
database of integrations; to list denials, AUDITOR is enough. Brokers without a
database read denials from a file (denials.file in secretbroker.yaml).

A SUBJECT is one of
  spiffe://DOMAIN/PATH, dns:HOST   a principal: every certificate that identifies it
  sha256:FINGERPRINT               one certificate
  serial:NUMBER                    one certificate; --issuer names its issuer
or --file CERTIFICATE, the certificate in a PEM file.

Exit codes: 0 success; 2 the command line is invalid; 3 the caller lacks the role;
4 the broker rejects the request; 5 there is no such denial; 6 the denial would deny
the caller itself, the list is full, or the broker has no database; 7 no trusted
broker answers at the address; 8 try again later; 1 other failure.`

func newDenyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "deny",
		Short: "Deny leaked certificates and principals",
		Long:  denyHelp,
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newDenyAddCommand(), newDenyListCommand(), newDenyRemoveCommand())
	return cmd
}

// denying has the flags of the commands that name a subject.
type denying struct {
	managing
	issuer, file string
	dryRun       bool
}

func (d *denying) register(cmd *cobra.Command) {
	d.conn.register(cmd)
	terminal.RegisterOutput(cmd, &d.output, "table", "json")
	cmd.Flags().StringVar(&d.issuer, "issuer", "", "with serial:NUMBER: the name of the certificate's issuer, such as CN=clients,O=Example")
	cmd.Flags().StringVarP(&d.file, "file", "f", "", "PEM file with the certificate to deny, by its fingerprint")
	cmd.Flags().BoolVar(&d.dryRun, "dry-run", false, "let the broker check the request, and change nothing")
	_ = cmd.MarkFlagFilename("file", "pem", "crt") // the flag exists
	terminal.CompleteWords(cmd, "issuer")
}

// subject returns the subject that the command line names.
func (d *denying) subject(args []string) (client.DenialSubject, error) {
	s, err := d.parse(args)
	if err == nil {
		s, err = s.Canonical()
	}
	if err != nil {
		return client.DenialSubject{}, &exit.Error{Code: exit.Usage, Err: err}
	}
	return client.DenialSubject{Principal: string(s.Principal), CertificateSHA256: s.SHA256, CertificateSerial: s.Serial, CertificateIssuer: s.Issuer}, nil
}

func (d *denying) parse(args []string) (denial.Subject, error) {
	if (len(args) == 1) == (d.file != "") {
		return denial.Subject{}, errors.New("give a SUBJECT (spiffe://..., dns:..., sha256:... or serial:...), or --file with a certificate")
	}
	if d.file != "" {
		data, err := readRegular(d.file)
		if err != nil {
			return denial.Subject{}, fmt.Errorf("--file: %w", err)
		}
		leaf := certfile.First(data)
		if leaf == nil {
			return denial.Subject{}, errors.New("--file: it contains no PEM certificate")
		}
		return denial.Subject{SHA256: denial.CertificateOf(leaf, "").SHA256}, nil
	}
	sum, isSum := strings.CutPrefix(args[0], "sha256:")
	serial, isSerial := strings.CutPrefix(args[0], "serial:")
	switch {
	case d.issuer != "" && !isSerial:
		return denial.Subject{}, errors.New("--issuer goes with serial:NUMBER")
	case isSum:
		if _, err := hex.DecodeString(strings.ReplaceAll(sum, ":", "")); err != nil || len(sum) == 0 {
			return denial.Subject{}, errors.New("sha256: expected the fingerprint of a certificate in hexadecimal; secretbroker whoami --cert FILE prints it")
		}
		return denial.Subject{SHA256: sum}, nil
	case isSerial && d.issuer == "":
		return denial.Subject{}, errors.New("serial:NUMBER requires --issuer, because a serial number is unique only for one issuer; secretbroker whoami --cert FILE prints both")
	case isSerial:
		return denial.Subject{Serial: serial, Issuer: d.issuer}, nil
	}
	return denial.Subject{Principal: authz.Principal(args[0])}, nil
}

func newDenyAddCommand() *cobra.Command {
	var (
		d       denying
		add     client.CreateDenialRequest
		within  time.Duration
		expires string
	)
	cmd := &cobra.Command{
		Use:   "add {SUBJECT | --file CERTIFICATE} [--reason TEXT] [--expires-in DURATION]",
		Short: "Deny a certificate or a principal",
		Long: denyHelp + `

A denial of a subject that is denied already replaces the reason, and never ends
earlier than before. Without --expires-in and --expires it has no end; the time at
which the certificate expires is a good one.`,
		Example: `  secretbroker deny add --file leaked.pem --reason 'laptop stolen, incident 4711'
  secretbroker deny add spiffe://example.org/connect/worker-1 --expires-in 30d`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if add.Denial.Subject, err = d.subject(args); err != nil {
				return err
			}
			if add.Denial.ExpireTime, err = expiry(within, expires); err != nil {
				return &exit.Error{Code: exit.Usage, Err: err}
			}
			add.ValidateOnly = d.dryRun
			return d.do(cmd, func(ctx context.Context, cl *client.Client) error {
				out, err := cl.CreateDenial(ctx, add)
				if err != nil {
					return err
				}
				return d.done(cmd, "denied", out.Denial, out.RequestID)
			})
		},
	}
	d.register(cmd)
	cmd.Flags().StringVar(&add.Denial.Reason, "reason", "", "why, for people and the audit log; the denied caller does not see it")
	durationVar(cmd.Flags(), &within, "expires-in", 0, "how long the denial lasts, such as 12h or 90d (default: without an end)")
	cmd.Flags().StringVar(&expires, "expires", "", "when the denial ends, such as 2027-01-31T12:00:00Z")
	cmd.Flags().BoolVar(&add.Force, "force", false, "also deny the caller of this command itself")
	cmd.MarkFlagsMutuallyExclusive("expires-in", "expires")
	for _, flag := range []string{"reason", "expires"} {
		terminal.CompleteWords(cmd, flag)
	}
	return cmd
}

func expiry(within time.Duration, at string) (time.Time, error) {
	switch {
	case within > 0:
		return time.Now().Add(within), nil
	case at == "":
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, at)
	if err != nil {
		return time.Time{}, errors.New("--expires: expected a time, such as 2027-01-31T12:00:00Z")
	}
	return t, nil
}

func newDenyRemoveCommand() *cobra.Command {
	var d denying
	cmd := &cobra.Command{
		Use:     "remove {SUBJECT | --file CERTIFICATE}",
		Aliases: []string{"delete"},
		Short:   "End a denial",
		Long:    denyHelp,
		Example: "  secretbroker deny remove spiffe://example.org/connect/worker-1",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			subject, err := d.subject(args)
			if err != nil {
				return err
			}
			return d.do(cmd, func(ctx context.Context, cl *client.Client) error {
				out, err := cl.DeleteDenial(ctx, client.DeleteDenialRequest{Subject: subject, ValidateOnly: d.dryRun})
				if err != nil {
					return err
				}
				return d.done(cmd, "no longer denied", client.Denial{Subject: subject}, out.RequestID)
			})
		},
	}
	d.register(cmd)
	return cmd
}

func newDenyListCommand() *cobra.Command {
	var m managing
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the denials",
		Long:    denyHelp,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return m.do(cmd, func(ctx context.Context, cl *client.Client) error {
				all := []client.Denial{}
				for d, err := range cl.ListDenials(ctx, client.ListDenialsRequest{}) {
					if err != nil {
						return err
					}
					all = append(all, d)
				}
				return printDenials(cmd, m.output, all)
			})
		},
	}
	m.conn.register(cmd)
	terminal.RegisterOutput(cmd, &m.output, "table", "json")
	return cmd
}

type (
	// DenialJSON is one denial.
	DenialJSON struct {
		Principal         string     `json:"principal,omitempty"`
		CertificateSHA256 string     `json:"certificate_sha256,omitempty"`
		CertificateSerial string     `json:"certificate_serial,omitempty"`
		CertificateIssuer string     `json:"certificate_issuer,omitempty"`
		Reason            string     `json:"reason,omitempty"`
		ExpireTime        *time.Time `json:"expire_time,omitempty"`
		CreateTime        *time.Time `json:"create_time,omitempty"`
		CreatedBy         string     `json:"created_by,omitempty"`
		// ReadOnly: it is in the broker's file.
		ReadOnly bool `json:"read_only,omitempty"`
		// Expired: it has no effect any more.
		Expired bool `json:"expired,omitempty"`
	}
	// DenialsJSON is the JSON output of deny list.
	DenialsJSON struct {
		Denials []DenialJSON `json:"denials"`
	}
	// DenialChangeJSON is the JSON output of deny add and deny remove.
	DenialChangeJSON struct {
		Denial    DenialJSON `json:"denial"`
		DryRun    bool       `json:"dry_run,omitempty"`
		RequestID string     `json:"request_id"`
	}
)

func denialJSON(d client.Denial) DenialJSON {
	return DenialJSON{
		Principal: d.Subject.Principal, CertificateSHA256: d.Subject.CertificateSHA256, CertificateSerial: d.Subject.CertificateSerial, CertificateIssuer: d.Subject.CertificateIssuer,
		Reason: d.Reason, ExpireTime: timeOrNil(d.ExpireTime), CreateTime: timeOrNil(d.CreateTime), CreatedBy: d.CreatedBy, ReadOnly: d.ReadOnly, Expired: expired(d),
	}
}

func expired(d client.Denial) bool { return !d.ExpireTime.IsZero() && !time.Now().Before(d.ExpireTime) }

// subjectText is a subject as the commands accept it.
func subjectText(s client.DenialSubject) string {
	switch {
	case s.CertificateSHA256 != "":
		return "sha256:" + s.CertificateSHA256
	case s.CertificateSerial != "":
		return "serial:" + s.CertificateSerial + " --issuer " + s.CertificateIssuer
	default:
		return s.Principal
	}
}

// done prints the result of a change.
func (d *denying) done(cmd *cobra.Command, what string, on client.Denial, requestID string) error {
	if d.output == "json" {
		return terminal.PrintJSON(cmd.OutOrStdout(), DenialChangeJSON{Denial: denialJSON(on), DryRun: d.dryRun, RequestID: requestID})
	}
	text := terminal.Printable(subjectText(on.Subject)) + ": " + what
	if !on.ExpireTime.IsZero() {
		text += " until " + momentText(on.ExpireTime)
	}
	if d.dryRun {
		text += " (dry run: nothing was changed)"
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), text)
	return err
}

func printDenials(cmd *cobra.Command, output string, all []client.Denial) error {
	if output == "json" {
		out := DenialsJSON{Denials: []DenialJSON{}}
		for _, d := range all {
			out.Denials = append(out.Denials, denialJSON(d))
		}
		return terminal.PrintJSON(cmd.OutOrStdout(), out)
	}
	if len(all) == 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "no denials")
		return nil
	}
	t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "SUBJECT\tEXPIRES\tCREATED\tCREATED BY\tREASON")
	for _, d := range all {
		expires, by := cmp.Or(momentText(d.ExpireTime), "never"), terminal.OrDash(d.CreatedBy)
		if expired(d) {
			expires += " (expired)"
		}
		if d.ReadOnly {
			by = "(deny file)"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", terminal.Printable(subjectText(d.Subject)), expires, terminal.OrDash(momentText(d.CreateTime)), by, terminal.OrDash(d.Reason))
	}
	return t.Flush()
}
