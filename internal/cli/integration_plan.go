package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/cli/exit"
	"github.com/secretbroker/secretbroker/internal/cli/reconcile"
	"github.com/secretbroker/secretbroker/internal/cli/terminal"
)

type (
	// PlanJSON is the JSON and YAML output of integration apply.
	PlanJSON struct {
		Changes   []PlannedJSON `json:"changes"`
		Create    int           `json:"create"`
		Update    int           `json:"update"`
		Delete    int           `json:"delete"`
		Unchanged int           `json:"unchanged"`
		// Applied: the changes without an error have been made.
		Applied bool `json:"applied"`
	}
	// PlannedJSON is the change of one integration.
	PlannedJSON struct {
		IntegrationID string            `json:"integration_id"`
		Action        string            `json:"action"`
		Fields        []FieldChangeJSON `json:"fields,omitempty"`
		Credentials   []string          `json:"credentials,omitempty"`
		// State and Problems are those of the integration that the change is compared with,
		// if it is faulty.
		State    string        `json:"state,omitempty"`
		Problems []ProblemJSON `json:"problems,omitempty"`
		Errors   []ErrorJSON   `json:"errors,omitempty"`
	}
	// FieldChangeJSON is a setting that differs.
	FieldChangeJSON struct {
		Setting string `json:"setting"`
		Before  any    `json:"before,omitempty"`
		After   any    `json:"after,omitempty"`
	}
)

func pastOf(action reconcile.Action) string {
	return map[reconcile.Action]string{reconcile.Create: "created", reconcile.Update: "updated", reconcile.Delete: "deleted"}[action]
}

// printPlan prints the plan as a diff.
func printPlan(w io.Writer, plan reconcile.Plan) {
	counts := make(map[reconcile.Action]int)
	for i := range plan {
		p := &plan[i]
		counts[p.Action]++
		printComparedWith(w, p)
		sign, ok := map[reconcile.Action]string{reconcile.Create: "+", reconcile.Update: "~", reconcile.Delete: "-"}[p.Action]
		if !ok {
			continue
		}
		fmt.Fprintf(w, "%s %s %s\n", sign, p.Action, p.ID)
		for _, c := range p.Fields {
			switch {
			case p.Action == reconcile.Create && c.Setting == "id":
			case c.Before == nil:
				fmt.Fprintf(w, "    + %s: %s\n", terminal.Printable(c.Setting), terminal.OneLine(c.After))
			case c.After == nil:
				fmt.Fprintf(w, "    - %s: %s\n", terminal.Printable(c.Setting), terminal.OneLine(c.Before))
			default:
				fmt.Fprintf(w, "    ~ %s: %s -> %s\n", terminal.Printable(c.Setting), terminal.OneLine(c.Before), terminal.OneLine(c.After))
			}
		}
		for _, name := range p.Credentials {
			fmt.Fprintf(w, "    ~ %s: send the credential\n", terminal.Printable(name))
		}
	}
	fmt.Fprintf(w, "Plan: %d to create, %d to update, %d to delete, %d unchanged\n", counts[reconcile.Create], counts[reconcile.Update], counts[reconcile.Delete], counts[reconcile.None])
}

// printComparedWith says what a document is compared with if the broker's integration is
// faulty.
func printComparedWith(w io.Writer, p *reconcile.Change) {
	if p.Now == nil || len(p.Now.Problems) == 0 || p.Now.State == client.IntegrationActive {
		return
	}
	with := "compared with what the broker could read of it"
	if p.Now.State == client.IntegrationDegraded {
		with = "compared with the version that is in effect"
	}
	fmt.Fprintf(w, "! %s is faulty; %s\n", p.ID, with)
	for _, problem := range p.Now.Problems {
		fmt.Fprintf(w, "    %s: %s\n", problem.Reason, terminal.Printable(problem.Message))
	}
}

// finishPlan prints the results of the plan and returns its exit code. rest describes
// what happened to the changes that did not fail.
func finishPlan(cmd *cobra.Command, output string, plan reconcile.Plan, results []error, o applyOptions, rest string) error {
	failed := failedOf(results)
	applied := !o.dryRun && (failed == nil || rest != "nothing was changed")
	if output != "table" {
		if err := printed(printStructured(cmd.OutOrStdout(), output, structuredPlan(plan, results, applied))); err != nil {
			return err
		}
	} else if failed != nil {
		printPlanFaults(cmd.ErrOrStderr(), plan, results)
		fmt.Fprintf(cmd.ErrOrStderr(), "Error: some changes were refused; %s\n", rest)
	}
	if failed != nil {
		return &exit.Error{Code: worstOf(results)}
	}
	if o.exitCode {
		for i := range plan {
			if plan[i].Action != reconcile.None {
				return &exit.Error{Code: exit.Findings}
			}
		}
	}
	return nil
}

// printPlanFaults prints the errors of each file with their lines.
func printPlanFaults(w io.Writer, plan reconcile.Plan, results []error) {
	for i, err := range results {
		for _, fault := range faultsOf(&plan[i], err) {
			fmt.Fprintln(w, terminal.Printable(fault.Config+": "+strings.Join(notEmpty(string(fault.Reason), fault.Message), ": ")))
		}
	}
}

// faultsOf splits an error into its parts. The Config of each part is its position: a line
// of a file, or an id.
func faultsOf(p *reconcile.Change, err error) []client.ConfigError {
	var e *client.Error
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &e):
		return []client.ConfigError{{Config: p.ID, Message: err.Error()}}
	case len(e.Configs) == 0:
		return []client.ConfigError{{Config: p.ID, Reason: e.Reason, Message: e.Message}}
	}
	faults := make([]client.ConfigError, len(e.Configs))
	for i, c := range e.Configs {
		setting := settingOf(p, c.Config)
		faults[i] = client.ConfigError{Config: p.ID + ": " + setting, Reason: c.Reason, Message: c.Message}
		if p.Document != nil {
			faults[i].Config = fmt.Sprintf("%s:%d: %s", p.Document.Path, p.Document.Line(setting), setting)
		}
	}
	return faults
}

// settingOf returns the setting of a file for a field of the API.
func settingOf(p *reconcile.Change, field string) string {
	setting := strings.TrimPrefix(strings.TrimPrefix(field, "integration"), ".")
	if rest, ok := strings.CutPrefix(setting, "settings"); ok && p.Document != nil {
		return p.Document.Section() + rest
	}
	return setting
}

func worstOf(results []error) int {
	var errs []client.ConfigError
	for _, err := range results {
		var e *client.Error
		var unreadable *reconcile.CredentialError
		switch {
		case err == nil:
		case errors.As(err, &unreadable):
			return exit.Usage
		case errors.As(err, &e):
			if code := exitCodeOf(err); code == exit.Unreachable || code == exit.Failure {
				return code
			}
			errs = append(errs, client.ConfigError{Reason: e.Reason})
		default:
			return exit.Failure
		}
	}
	return worstExitCode(errs)
}

func structuredPlan(plan reconcile.Plan, results []error, applied bool) PlanJSON {
	out := PlanJSON{Changes: []PlannedJSON{}, Applied: applied}
	for i := range plan {
		p := &plan[i]
		switch p.Action {
		case reconcile.Create:
			out.Create++
		case reconcile.Update:
			out.Update++
		case reconcile.Delete:
			out.Delete++
		default:
			out.Unchanged++
			continue
		}
		change := PlannedJSON{IntegrationID: p.ID, Action: string(p.Action), Credentials: p.Credentials, Errors: errorsJSON(faultsOf(p, results[i]))}
		if p.Now != nil && len(p.Now.Problems) > 0 {
			change.State = string(p.Now.State)
			for _, problem := range p.Now.Problems {
				change.Problems = append(change.Problems, ProblemJSON{string(problem.Reason), problem.Message})
			}
		}
		for _, c := range p.Fields {
			change.Fields = append(change.Fields, FieldChangeJSON(c))
		}
		out.Changes = append(out.Changes, change)
	}
	return out
}
