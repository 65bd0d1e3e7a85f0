package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/explain"
)

// The JSON output: names are a promise.
type (
	jsonExplanation struct {
		Reference  string          `json:"reference"`
		Readers    []jsonAccess    `json:"readers"`
		Judgements []jsonJudgement `json:"judgements,omitempty"` // with --principal only
		RequestID  string          `json:"request_id,omitempty"` // of a broker that was asked
	}
	jsonAccess struct {
		IntegrationID string `json:"integration_id"`
		Grant         int    `json:"grant"`
		Principal     string `json:"principal"`
	}
	jsonJudgement struct {
		IntegrationID string               `json:"integration_id"`
		Allowed       bool                 `json:"allowed"`
		Grant         int                  `json:"grant"` // -1: none
		Explanation   string               `json:"explanation"`
		Grants        []jsonGrantJudgement `json:"grants"`
	}
	jsonGrantJudgement struct {
		Grant            int  `json:"grant"`
		PrincipalMatches bool `json:"principal_matches"`
		StoreMatches     bool `json:"store_matches"`
		SecretMatches    bool `json:"secret_matches"`
		KeyMatches       bool `json:"key_matches"`
	}
	jsonChanges struct {
		Changes []jsonChange `json:"changes"`
	}
	jsonChange struct {
		IntegrationID string           `json:"integration_id"`
		Change        string           `json:"change"` // added, removed, changed
		Gained        []jsonPermission `json:"gained,omitempty"`
		Lost          []jsonPermission `json:"lost,omitempty"`
		Notes         []jsonNote       `json:"notes,omitempty"`
	}
	jsonPermission struct {
		Principal string `json:"principal"`
		Store     string `json:"store"`
		Secret    string `json:"secret"`
		Key       string `json:"key"`
		// WholeSecret: without a key too.
		WholeSecret bool `json:"whole_secret"`
	}
	jsonNote struct {
		Setting string `json:"setting"`
		Old     string `json:"old,omitempty"`
		New     string `json:"new,omitempty"`
	}
)

func printExplanation(cmd *cobra.Command, output string, e *client.Explanation) error {
	var err error
	if output == "json" {
		err = printJSON(cmd.OutOrStdout(), explanationJSON(e))
	} else {
		err = printExplanationTable(cmd.OutOrStdout(), e)
	}
	if err != nil {
		return &exitError{exitFailure, err}
	}
	return nil
}

func explanationJSON(e *client.Explanation) jsonExplanation {
	out := jsonExplanation{Reference: e.Reference, Readers: []jsonAccess{}, RequestID: e.RequestID}
	for _, r := range e.Readers {
		out.Readers = append(out.Readers, jsonAccess(r))
	}
	for _, j := range e.Judgements {
		judgement := jsonJudgement{
			IntegrationID: j.IntegrationID, Allowed: j.Allowed, Grant: j.Grant, Explanation: j.Explanation, Grants: []jsonGrantJudgement{},
		}
		for _, g := range j.Grants {
			judgement.Grants = append(judgement.Grants, jsonGrantJudgement(g))
		}
		out.Judgements = append(out.Judgements, judgement)
	}
	return out
}

func printExplanationTable(w io.Writer, e *client.Explanation) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	if len(e.Judgements) > 0 {
		fmt.Fprintln(t, "INTEGRATION\tALLOWED\tWHY")
		for _, j := range e.Judgements {
			allowed := "no"
			if j.Allowed {
				allowed = "yes"
			}
			fmt.Fprintf(t, "%s\t%s\t%s\n", j.IntegrationID, allowed, printable(j.Explanation))
		}
		fmt.Fprintln(t)
	}
	if len(e.Readers) == 0 {
		fmt.Fprintf(t, "Nobody may read %s\n", printable(e.Reference))
		return t.Flush()
	}
	fmt.Fprintln(t, "INTEGRATION\tGRANT\tMAY READ")
	for _, r := range e.Readers {
		fmt.Fprintf(t, "%s\t%d\t%s\n", r.IntegrationID, r.Grant, printable(r.Principal))
	}
	return t.Flush()
}

func printChanges(w io.Writer, output string, changes explain.Changes) error {
	if output == "json" {
		return printJSON(w, changesJSON(changes))
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

// settingLines says what is different but for permissions.
func settingLines(changes explain.Changes) []string {
	var lines []string
	for _, c := range changes {
		switch c.Kind {
		case explain.Added:
			lines = append(lines, "+ "+c.IntegrationID+": integration added")
		case explain.Removed:
			lines = append(lines, "- "+c.IntegrationID+": integration removed")
		}
		for _, n := range c.Notes {
			lines = append(lines, "~ "+c.IntegrationID+": "+printable(n.String()))
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
		return printable(r.Key)
	}
}

func changesJSON(changes explain.Changes) jsonChanges {
	out := jsonChanges{Changes: []jsonChange{}}
	for _, c := range changes {
		change := jsonChange{IntegrationID: c.IntegrationID, Change: string(c.Kind), Gained: permissionsJSON(c.Gained), Lost: permissionsJSON(c.Lost)}
		for _, n := range c.Notes {
			change.Notes = append(change.Notes, jsonNote(n))
		}
		out.Changes = append(out.Changes, change)
	}
	return out
}

func permissionsJSON(rules []authz.Rule) []jsonPermission {
	var out []jsonPermission
	for _, r := range rules {
		p := jsonPermission{Principal: r.Principal, Store: r.Store, Secret: r.Secret, Key: r.Key}
		if r.Key == "" {
			p.Key, p.WholeSecret = "*", true
		}
		out = append(out, p)
	}
	return out
}
