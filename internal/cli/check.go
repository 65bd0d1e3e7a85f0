package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/cli/exit"
	"github.com/secretbroker/secretbroker/internal/cli/terminal"
	"github.com/secretbroker/secretbroker/internal/connectorfile"
)

// Findings of check that are not reasons of the broker. The names are a stable interface.
const (
	// Warnings: the config can be resolved, but may need attention.
	warnExpiresSoon = "EXPIRES_SOON"
	// WarnEmptyValue warns of a value that is empty.
	WarnEmptyValue = "EMPTY_VALUE"

	// FaultInvalidFile is the code of a file that cannot be parsed.
	FaultInvalidFile = "INVALID_FILE"
	// Errors of the call for a file.
	faultCallFailed = "CALL_FAILED" // the broker gave no reason
	faultNotChecked = "NOT_CHECKED" // an earlier call failed, and this one would fail in the same way
)

// check is the check command.
type check struct {
	conn       Connection
	what       question
	files      []string
	output     string
	warnExpiry time.Duration
	strict     bool
}

func newCheckCommand() *cobra.Command {
	var c check
	cmd := &cobra.Command{
		Use:   "check [NAME=REFERENCE ...]",
		Short: "Check that a broker can resolve references",
		Long: `Check that a broker can resolve references for the owner of the client certificate.
No value leaves the broker. Use the command in the pipeline that deploys
connectors. It lists every failing config with its reason and a remedy.
docs/check.md describes the output.

Give the references as NAME=REFERENCE, or name the configurations of connectors
with --file, which can be repeated: JSON, also the answer of Kafka Connect's
GET /connectors?expand=info; YAML of Strimzi or Confluent for Kubernetes; or
.properties files. The command finds the references in them: the configs that the
secret.manager properties list, and placeholders such as
${secretbroker:INTEGRATION:REFERENCE}. It sends nothing else to the broker.

Exit codes: 0 all references can be resolved, or there are none; 2 the command line or a file is
invalid; otherwise the code of the worst failure, as for "secretbroker resolve".
With --strict, 9 if there are only warnings.`,
		Example: `  secretbroker check --file connector.json
  secretbroker check --file orders.json --file payments.properties --output github
  secretbroker check --integration cspi-sqlserver \
      'password=https://my-vault.vault.azure.net::sqlserver-db-secret::password'`,
		RunE: c.run,
	}
	c.conn.register(cmd)
	c.what.register(cmd)
	terminal.RegisterOutput(cmd, &c.output, "table", "json", "github")
	cmd.Flags().StringArrayVarP(&c.files, "file", "f", nil, "configurations of connectors: JSON, YAML or a .properties file; - is standard input (repeatable)")
	durationVar(cmd.Flags(), &c.warnExpiry, "warn-expiry", 7*24*time.Hour, "warn about secrets that expire within this time")
	cmd.Flags().BoolVar(&c.strict, "strict", false, "also fail on warnings, such as secrets that expire soon and empty values")
	_ = cmd.MarkFlagFilename("file", "json", "yaml", "yml", "properties") // the flag exists
	return cmd
}

func (c *check) run(cmd *cobra.Command, args []string) error {
	if err := c.validate(args); err != nil {
		return &exit.Error{Code: exit.Usage, Err: err}
	}
	cl, err := c.conn.dial()
	if err != nil {
		return err
	}
	defer cl.Close()
	var checked []checkedFile
	if len(c.files) == 0 {
		set, err := c.what.setOfArgs(args)
		if err != nil {
			return &exit.Error{Code: exit.Usage, Err: err}
		}
		checked = append(checked, c.ask(cmd.Context(), cl, "", &set))
	} else {
		checked = c.checkFiles(cmd.Context(), cl)
	}
	if err := c.print(cmd, checked); err != nil {
		return &exit.Error{Code: exit.Failure, Err: err}
	}
	if code := exitCodeOfCheck(checked, c.strict); code != exit.OK {
		return &exit.Error{Code: code}
	}
	return nil
}

func (c *check) validate(args []string) error {
	switch {
	case len(c.files) > 0 && len(args) > 0:
		return errArgsAndFile
	case len(c.files) > 1 && c.what.connector != "":
		return errors.New("--connector names one connector; omit it with several files, which name their own")
	case c.warnExpiry < 0:
		return errors.New("--warn-expiry must not be negative; 0s disables the warning")
	}
	return nil
}

// checkedFile is the result for one file, or for the references on the command line.
type checkedFile struct {
	file        string // empty for the command line
	connector   string
	integration string
	requestID   string
	configs     []checkedConfig // sorted by name
	fault       *checkFault     // why there are no configs
}

type checkedConfig struct {
	client.Report
	line     int // zero if unknown
	warnings []checkWarning
}

// checkFault is the error that prevented the check of a whole file.
type checkFault struct {
	line       int // zero if unknown
	reason     string
	message    string
	retryAfter time.Duration
	code       int
}

type checkWarning struct{ code, message string }

// checkFiles checks every connector of every file with a separate call for each of its
// integrations, so that an invalid file does not hide the results of the others.
func (c *check) checkFiles(ctx context.Context, cl *client.Client) []checkedFile {
	checked := make([]checkedFile, 0, len(c.files))
	hopeless := false
	for _, file := range c.files {
		if hopeless {
			checked = append(checked, checkedFile{file: file, fault: &checkFault{
				reason: faultNotChecked, message: "not checked, because the call for an earlier file failed", code: exit.Failure,
			}})
			continue
		}
		connectors, err := readConnectors(file)
		if err != nil {
			checked = append(checked, checkedFile{file: file, fault: newFileFault(err)})
			continue
		}
		for _, connector := range connectors {
			sets, err := c.what.sets(connector)
			if err != nil || len(sets) == 0 {
				f := checkedFile{file: file, connector: cmp.Or(c.what.connector, connector.Name)}
				if err != nil {
					f.fault = newFileFault(err)
				}
				checked = append(checked, f)
			}
			for i := range sets {
				f := c.ask(ctx, cl, file, &sets[i])
				checked = append(checked, f)
				// An invalid request says nothing about the next one. Any other failure,
				// such as an unreachable broker, would only repeat after the same wait.
				if hopeless = f.fault != nil && f.fault.code != exit.BadReference && f.fault.code != exit.Usage; hopeless {
					break
				}
			}
			if hopeless {
				break
			}
		}
	}
	return checked
}

// ask lets the broker check the references of one integration.
func (c *check) ask(ctx context.Context, cl *client.Client, file string, set *referenceSet) checkedFile {
	f := checkedFile{file: file, connector: set.connector, integration: set.integration}
	for _, fault := range set.faults {
		f.configs = append(f.configs, checkedConfig{Report: client.Report{Config: fault.Config, Err: &fault}, line: set.line(fault.Config)})
	}
	if len(set.configs) == 0 {
		return f
	}
	req := c.what.request(set)
	res, err := cl.Check(ctx, client.CheckRequest{
		IntegrationID: req.IntegrationID,
		Configs:       req.Configs,
		MaxAge:        req.MaxAge,
		Connector:     req.Connector,
	})
	if err != nil {
		f.fail(err, set)
		return f
	}
	f.requestID = res.RequestID
	for _, r := range res.Reports {
		f.configs = append(f.configs, checkedConfig{Report: r, line: set.line(r.Config), warnings: c.warningsOf(r)})
	}
	slices.SortFunc(f.configs, func(a, b checkedConfig) int { return cmp.Compare(a.Config, b.Config) })
	return f
}

// fail stores the error of a call, for the failed configs or for the whole file.
func (f *checkedFile) fail(err error, set *referenceSet) {
	var e *client.Error
	if !errors.As(err, &e) {
		f.fault = &checkFault{reason: faultCallFailed, message: err.Error(), code: exit.Failure}
		return
	}
	f.requestID = e.RequestID
	for _, ce := range e.Configs {
		f.configs = append(f.configs, checkedConfig{Report: client.Report{Config: ce.Config, Err: &ce}, line: set.line(ce.Config)})
	}
	if len(e.Configs) == 0 {
		f.fault = &checkFault{reason: cmp.Or(string(e.Reason), faultCallFailed), message: e.Message, retryAfter: e.RetryAfter, code: exitCodeOf(err)}
	}
}

func newFileFault(err error) *checkFault {
	f := &checkFault{reason: FaultInvalidFile, message: err.Error(), code: exit.Usage}
	if e, ok := errors.AsType[*connectorfile.Error](err); ok {
		f.line, f.message = e.Line, e.Text
	}
	return f
}

// warningsOf returns the warnings for a config that can be resolved.
func (c *check) warningsOf(r client.Report) []checkWarning {
	if r.Err != nil {
		return nil
	}
	var w []checkWarning
	if r.HasTimeLeft && r.TimeLeft <= c.warnExpiry && c.warnExpiry > 0 {
		w = append(w, checkWarning{warnExpiresSoon, fmt.Sprintf("the secret expires in %s, at %s; set a new version before then, or change its expiry date",
			roughly(r.TimeLeft), r.SecretExpireTime.Format(time.RFC3339))})
	}
	if r.Length == client.LengthEmpty {
		w = append(w, checkWarning{WarnEmptyValue, "the value is empty; set the secret, or check the JSON key of the reference"})
	}
	for _, broker := range r.Warnings {
		w = append(w, checkWarning{broker.Warning, broker.Message})
	}
	return w
}

// roughly formats a duration, rounded for readers.
func roughly(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= 2*day {
		return fmt.Sprintf("%d days", d/day)
	}
	return d.Round(time.Second).String()
}

// exitCodeOfCheck returns the code of the first file with an error, or otherwise that of
// the worst failing config.
func exitCodeOfCheck(checked []checkedFile, strict bool) int {
	warned := false
	var failed []client.ConfigError
	for _, f := range checked {
		if f.fault != nil {
			return f.fault.code
		}
		for _, c := range f.configs {
			if c.Err != nil {
				failed = append(failed, *c.Err)
			}
			warned = warned || len(c.warnings) > 0
		}
	}
	if len(failed) > 0 {
		return worstExitCode(failed)
	}
	if strict && warned {
		return exit.Findings
	}
	return exit.OK
}
