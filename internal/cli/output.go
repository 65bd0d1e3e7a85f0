package cli

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/cli/exit"
	"github.com/secretbroker/secretbroker/internal/cli/terminal"
)

// mask is printed instead of every value, whatever its length.
const mask = "********"

// printer prints the answers of a broker as a table or as JSON.
type printer struct {
	output string
	reveal bool
}

func (p *printer) register(cmd *cobra.Command) {
	terminal.RegisterOutput(cmd, &p.output, "table", "json", "value")
	cmd.Flags().BoolVar(&p.reveal, "reveal", false, "print the values in clear")
}

type (
	// ValueJSON is one resolved config.
	ValueJSON struct {
		Value           *string   `json:"value,omitempty"`        // only with --reveal, and only if it is text
		ValueBase64     []byte    `json:"value_base64,omitempty"` // only with --reveal
		Version         string    `json:"version"`
		FetchTime       time.Time `json:"fetch_time"`
		CacheExpireTime time.Time `json:"cache_expire_time"`
		Stale           bool      `json:"stale"`
	}
	// ErrorJSON is an error of a config or of a call.
	ErrorJSON struct {
		Config  string `json:"config,omitempty"` // only in lists
		Reason  string `json:"reason"`
		Message string `json:"message"`
		// RetryDelaySeconds is how long to wait before a retry; zero if a retry does not help.
		RetryDelaySeconds float64 `json:"retry_delay_seconds,omitempty"`
	}
	// ResponseJSON is the JSON output of resolve, and of a failed call of all commands.
	ResponseJSON struct {
		Configs map[string]ValueJSON `json:"configs,omitempty"`
		// Errors are by config, as in the API.
		Errors map[string]ErrorJSON `json:"errors,omitempty"`
		// Error is the error of the call, if it failed as a whole.
		Error     *ErrorJSON `json:"error,omitempty"`
		RequestID string     `json:"request_id,omitempty"`
		// RetryDelaySeconds is set if the caller should retry the whole call.
		RetryDelaySeconds float64 `json:"retry_delay_seconds,omitempty"`
	}
)

// printResponse prints an answer. The exit code of a partial one is that of its worst
// failure.
func (p *printer) printResponse(cmd *cobra.Command, res *client.ResolveResponse) error {
	failed := configErrors(res.Errors)
	if p.output == "value" {
		return p.printValue(cmd, res, failed)
	}
	if p.output == "json" {
		out := ResponseJSON{RequestID: res.RequestID, Errors: errorsByConfig(failed), Configs: make(map[string]ValueJSON)}
		for name, v := range res.Values {
			jv := ValueJSON{Version: v.Version, FetchTime: v.FetchTime, CacheExpireTime: v.CacheExpireTime, Stale: v.Stale}
			if p.reveal {
				jv.ValueBase64 = v.Bytes()
				if text, ok := textOf(v); ok {
					jv.Value = &text
				}
			}
			out.Configs[name] = jv
		}
		if err := terminal.PrintJSON(cmd.OutOrStdout(), out); err != nil {
			return &exit.Error{Code: exit.Failure, Err: err}
		}
	} else {
		if err := p.printTable(cmd.OutOrStdout(), res, time.Now()); err != nil {
			return &exit.Error{Code: exit.Failure, Err: err}
		}
		printConfigErrors(cmd.ErrOrStderr(), failed)
	}
	if len(failed) > 0 {
		return &exit.Error{Code: worstExitCode(failed)}
	}
	return nil
}

// printValue prints the only value as it is, without a line end, for scripts.
func (p *printer) printValue(cmd *cobra.Command, res *client.ResolveResponse, failed []client.ConfigError) error {
	if len(failed) > 0 {
		printConfigErrors(cmd.ErrOrStderr(), failed)
		return &exit.Error{Code: worstExitCode(failed)}
	}
	if len(res.Values) != 1 {
		return &exit.Error{Code: exit.Usage, Err: fmt.Errorf("--output value prints one value, but the request has %d; name one reference", len(res.Values))}
	}
	for _, v := range res.Values {
		b := v.Bytes()
		if text, ok := textOf(v); ok {
			b = []byte(text)
		}
		if _, err := cmd.OutOrStdout().Write(b); err != nil {
			return &exit.Error{Code: exit.Failure, Err: err}
		}
	}
	return nil
}

func (p *printer) printTable(w io.Writer, res *client.ResolveResponse, now time.Time) error {
	if len(res.Values) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "CONFIG\tVALUE\tVERSION\tREAD\tEXPIRES")
	for _, name := range slices.Sorted(maps.Keys(res.Values)) {
		v := res.Values[name]
		value := mask
		if p.reveal {
			value = revealed(v)
		}
		expires := "in " + v.CacheExpireTime.Sub(now).Round(time.Second).String()
		if v.Stale {
			expires = "stale"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s ago\t%s\n", terminal.Printable(name), value, v.Version, now.Sub(v.FetchTime).Round(time.Second), expires)
	}
	return t.Flush()
}

// textOf returns a value as text. ok is false if it is not text.
func textOf(v client.Value) (text string, ok bool) {
	text = v.Reveal()
	return text, text != "" || v.Bytes() == nil
}

// revealed formats a value for a terminal.
func revealed(v client.Value) string {
	text, ok := textOf(v)
	if !ok {
		return fmt.Sprintf("<%d bytes>", len(v.Bytes()))
	}
	return terminal.Printable(text)
}

// printError prints the error of a call and returns an exit.Error with its exit code.
func (p *printer) printError(cmd *cobra.Command, err error) error {
	code := exitCodeOf(err)
	var e *client.Error
	if !errors.As(err, &e) {
		return &exit.Error{Code: code, Err: err}
	}
	if p.output == "json" {
		out := ResponseJSON{RequestID: e.RequestID, Errors: errorsByConfig(e.Configs)}
		if len(out.Errors) == 0 {
			out.Error = &ErrorJSON{Reason: string(e.Reason), Message: e.Message}
		}
		out.RetryDelaySeconds = e.RetryAfter.Seconds()
		if err := terminal.PrintJSON(cmd.OutOrStdout(), out); err != nil {
			return &exit.Error{Code: exit.Failure, Err: err}
		}
		return &exit.Error{Code: code}
	}
	w := cmd.ErrOrStderr()
	if len(e.Configs) > 0 {
		fmt.Fprintf(w, "Error: %s\n", e.Reason)
		printConfigErrors(w, e.Configs)
	} else {
		fmt.Fprintf(w, "Error: %s\n", strings.TrimPrefix(string(e.Reason)+": "+e.Message, ": "))
	}
	if e.RequestID != "" {
		fmt.Fprintf(w, "request id %s\n", e.RequestID)
	}
	return &exit.Error{Code: code}
}

func printConfigErrors(w io.Writer, errs []client.ConfigError) {
	for _, e := range errs {
		fmt.Fprintf(w, "  %s\n", strings.Join(slices.DeleteFunc([]string{terminal.Printable(e.Config), string(e.Reason), terminal.Printable(e.Message)}, func(s string) bool { return s == "" }), ": "))
	}
}

// configErrors returns the errors of a partial answer, sorted by name.
func configErrors(m map[string]client.ConfigError) []client.ConfigError {
	var errs []client.ConfigError
	for _, name := range slices.Sorted(maps.Keys(m)) {
		errs = append(errs, m[name])
	}
	return errs
}

func errorsJSON(errs []client.ConfigError) []ErrorJSON {
	var out []ErrorJSON
	for _, e := range errs {
		out = append(out, newJSONError(e))
	}
	return out
}

func errorsByConfig(errs []client.ConfigError) map[string]ErrorJSON {
	out := make(map[string]ErrorJSON, len(errs))
	for _, e := range errs {
		one := newJSONError(e)
		one.Config = "" // it is the key
		out[e.Config] = one
	}
	return out
}

func newJSONError(e client.ConfigError) ErrorJSON {
	return ErrorJSON{Config: e.Config, Reason: string(e.Reason), Message: e.Message, RetryDelaySeconds: e.RetryAfter.Seconds()}
}
