package cli

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/cli/exit"
	"github.com/secretbroker/secretbroker/internal/cli/terminal"
	"github.com/secretbroker/secretbroker/internal/manage"
)

type (
	// ExplanationJSON is the JSON output of explain.
	ExplanationJSON struct {
		Reference string         `json:"reference"`
		Readers   []AccessJSON   `json:"readers"`
		Decisions []DecisionJSON `json:"decisions,omitempty"`  // only with --principal
		RequestID string         `json:"request_id,omitempty"` // of a broker that was asked
	}
	// AccessJSON is one grant that allows a principal to read the secret.
	AccessJSON struct {
		IntegrationID string `json:"integration_id"`
		GrantID       string `json:"grant_id"`
		Principal     string `json:"principal"`
	}
	// DecisionJSON is the decision of one integration's policy.
	DecisionJSON struct {
		IntegrationID string           `json:"integration_id"`
		Allowed       bool             `json:"allowed"`
		GrantID       string           `json:"grant_id,omitempty"` // absent if no grant allows it
		Explanation   string           `json:"explanation"`
		Grants        []GrantMatchJSON `json:"grants"`
	}
	// GrantMatchJSON says which parts of one grant match.
	GrantMatchJSON struct {
		GrantID          string `json:"grant_id"`
		PrincipalMatches bool   `json:"principal_matches"`
		StoreMatches     bool   `json:"store_matches"`
		SecretMatches    bool   `json:"secret_matches"`
		KeyMatches       bool   `json:"key_matches"`
	}
	// ChangesJSON is the JSON output of explain --diff.
	ChangesJSON struct {
		Changes []ChangeJSON `json:"changes"`
	}
	// ChangeJSON is the change of one integration.
	ChangeJSON struct {
		IntegrationID string           `json:"integration_id"`
		Change        string           `json:"change"` // added, removed, changed
		Gained        []PermissionJSON `json:"gained,omitempty"`
		Lost          []PermissionJSON `json:"lost,omitempty"`
		Notes         []NoteJSON       `json:"notes,omitempty"`
	}
	// PermissionJSON is a permission that is gained or lost.
	PermissionJSON struct {
		Principal string `json:"principal"`
		Store     string `json:"store"`
		Secret    string `json:"secret"`
		Key       string `json:"key"`
		// WholeSecret: the permission includes references without a key.
		WholeSecret bool `json:"whole_secret"`
	}
	// NoteJSON is a setting that differs without affecting a permission.
	NoteJSON struct {
		Setting string `json:"setting"`
		Old     string `json:"old,omitempty"`
		New     string `json:"new,omitempty"`
	}
)

func printExplanation(cmd *cobra.Command, output string, e *client.ExplainResponse) error {
	var err error
	if output == "json" {
		err = terminal.PrintJSON(cmd.OutOrStdout(), explanationJSON(e))
	} else {
		err = printExplanationTable(cmd.OutOrStdout(), e)
	}
	if err != nil {
		return &exit.Error{Code: exit.Failure, Err: err}
	}
	return nil
}

func explanationJSON(e *client.ExplainResponse) ExplanationJSON {
	out := ExplanationJSON{Reference: e.Reference, Readers: []AccessJSON{}, RequestID: e.RequestID}
	for _, r := range e.Readers {
		out.Readers = append(out.Readers, AccessJSON(r))
	}
	for _, j := range e.Decisions {
		decision := DecisionJSON{
			IntegrationID: j.IntegrationID, Allowed: j.Allowed, GrantID: j.GrantID, Explanation: j.Explanation, Grants: []GrantMatchJSON{},
		}
		for _, g := range j.Grants {
			decision.Grants = append(decision.Grants, GrantMatchJSON(g))
		}
		out.Decisions = append(out.Decisions, decision)
	}
	return out
}

func printExplanationTable(w io.Writer, e *client.ExplainResponse) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	if len(e.Decisions) > 0 {
		fmt.Fprintln(t, "INTEGRATION\tALLOWED\tWHY")
		for _, j := range e.Decisions {
			allowed := "no"
			if j.Allowed {
				allowed = "yes"
			}
			fmt.Fprintf(t, "%s\t%s\t%s\n", j.IntegrationID, allowed, terminal.Printable(j.Explanation))
		}
		fmt.Fprintln(t)
	}
	if len(e.Readers) == 0 {
		fmt.Fprintf(t, "No principal may read %s\n", terminal.Printable(e.Reference))
		return t.Flush()
	}
	fmt.Fprintln(t, "INTEGRATION\tGRANT\tMAY READ")
	for _, r := range e.Readers {
		fmt.Fprintf(t, "%s\t%s\t%s\n", r.IntegrationID, r.GrantID, terminal.Printable(r.Principal))
	}
	return t.Flush()
}

func printChanges(w io.Writer, output string, changes manage.Changes) error {
	if output == "json" {
		return terminal.PrintJSON(w, changesJSON(changes))
	}
	settings, permissions := settingLines(changes), false
	for _, line := range settings {
		fmt.Fprintln(w, line)
	}
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	for _, c := range changes {
		if !permissions && len(c.Gained)+len(c.Lost) > 0 {
			permissions = true
			if len(settings) > 0 {
				fmt.Fprintln(w)
			}
			fmt.Fprintln(t, "  INTEGRATION\tPRINCIPAL\tVAULT\tSECRETS\tJSON KEYS")
		}
		printRules(t, "+", c.IntegrationID, c.Gained)
		printRules(t, "-", c.IntegrationID, c.Lost)
	}
	return t.Flush()
}

// settingLines describes the differences that are not permissions.
func settingLines(changes manage.Changes) []string {
	var lines []string
	for _, c := range changes {
		switch c.Kind {
		case manage.Added:
			lines = append(lines, "+ "+c.IntegrationID+": integration added")
		case manage.Removed:
			lines = append(lines, "- "+c.IntegrationID+": integration removed")
		}
		for _, n := range c.Notes {
			lines = append(lines, "~ "+c.IntegrationID+": "+terminal.Printable(n.String()))
		}
	}
	return lines
}

func printRules(w io.Writer, sign, integration string, rules []authz.Rule) {
	for _, r := range rules {
		fmt.Fprintf(w, "%s %s\t%s\t%s\t%s\t%s\n", sign, integration, r.Principal, r.Store, r.Secret, keysOf(r))
	}
}

func keysOf(r authz.Rule) string {
	switch r.Key {
	case "":
		return "whole secret and every key"
	case "*":
		return "every key"
	default:
		return terminal.Printable(r.Key)
	}
}

func changesJSON(changes manage.Changes) ChangesJSON {
	out := ChangesJSON{Changes: []ChangeJSON{}}
	for _, c := range changes {
		change := ChangeJSON{IntegrationID: c.IntegrationID, Change: string(c.Kind), Gained: permissionsJSON(c.Gained), Lost: permissionsJSON(c.Lost)}
		for _, n := range c.Notes {
			change.Notes = append(change.Notes, NoteJSON(n))
		}
		out.Changes = append(out.Changes, change)
	}
	return out
}

func permissionsJSON(rules []authz.Rule) []PermissionJSON {
	var out []PermissionJSON
	for _, r := range rules {
		p := PermissionJSON{Principal: r.Principal, Store: r.Store, Secret: r.Secret, Key: r.Key}
		if r.Key == "" {
			p.Key, p.WholeSecret = "*", true
		}
		out = append(out, p)
	}
	return out
}
