package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/cli/reconcile"
	"github.com/secretbroker/secretbroker/internal/cli/terminal"
	"github.com/secretbroker/secretbroker/internal/integration"
)

type (
	// IntegrationJSON is the JSON and YAML output of one integration: its document and the
	// fields that the broker adds.
	IntegrationJSON struct {
		Integration     map[string]any    `json:"integration"`
		UID             string            `json:"uid,omitempty"`
		ETag            string            `json:"etag,omitempty"`
		Revision        string            `json:"revision,omitempty"`
		CredentialNames []string          `json:"credential_names,omitempty"`
		CreateTime      *time.Time        `json:"create_time,omitempty"`
		Creator         string            `json:"creator,omitempty"`
		UpdateTime      *time.Time        `json:"update_time,omitempty"`
		Updater         string            `json:"updater,omitempty"`
		ReadOnly        bool              `json:"read_only,omitempty"`
		Facts           []FactJSON        `json:"facts,omitempty"`
		LastUseTime     *time.Time        `json:"last_use_time,omitempty"`
		UsageRecording  *RecordingJSON    `json:"usage_recording,omitempty"`
		State           string            `json:"state,omitempty"`
		Problems        []ProblemJSON     `json:"problems,omitempty"`
		EventSources    []EventSourceJSON `json:"event_sources,omitempty"`
		Resources       []UsageJSON       `json:"resources,omitempty"`
		// GrantIDs are the ids of the grants of Integration, in their order.
		GrantIDs       []string `json:"grant_ids,omitempty"`
		UnusedGrantIDs []string `json:"unused_grant_ids,omitempty"`
	}
	// FactJSON is a value that the store's configuration needs.
	FactJSON struct {
		ID    string `json:"id"`
		Name  string `json:"name"`
		Value string `json:"value"`
	}
	// ProblemJSON is a reason why the broker does not use an integration.
	ProblemJSON struct {
		Reason  string `json:"reason"`
		Message string `json:"message"`
	}
	// RecordingJSON says since when, and of which replicas, uses are recorded.
	RecordingJSON struct {
		RecordedSince       *time.Time `json:"recorded_since,omitempty"`
		GrantsRecordedSince *time.Time `json:"grants_recorded_since,omitempty"`
		ReplicaOnly         bool       `json:"replica_only,omitempty"`
	}
	// UsageJSON is the use of one secret through an integration.
	UsageJSON struct {
		IntegrationID string `json:"integration_id,omitempty"`
		Principal     string `json:"principal"`
		Connector     string `json:"connector,omitempty"`
		// Attribution is CONNECTOR, or PRINCIPAL if the entry has the reads of all connectors
		// that the principal did not name.
		Attribution  string     `json:"attribution,omitempty"`
		Store        string     `json:"store"`
		Secret       string     `json:"secret"`
		JSONKey      string     `json:"json_key,omitempty"`
		Version      string     `json:"version,omitempty"`
		FirstUseTime *time.Time `json:"first_use_time,omitempty"`
		LastUseTime  *time.Time `json:"last_use_time,omitempty"`
		GrantID      string     `json:"grant_id,omitempty"`
		// CurrentVersion is what the broker has read last, and State whether Version is the same:
		// CURRENT, OUTDATED or UNKNOWN.
		CurrentVersion string `json:"current_version,omitempty"`
		State          string `json:"state"`
		// Versions are the last ones that were read, the latest first.
		Versions []VersionUseJSON `json:"versions,omitempty"`
	}
	// VersionUseJSON is the use of one version, with the call that read it first.
	VersionUseJSON struct {
		Version       string     `json:"version"`
		FirstUseTime  *time.Time `json:"first_use_time,omitempty"`
		LastUseTime   *time.Time `json:"last_use_time,omitempty"`
		RequestID     string     `json:"request_id,omitempty"`
		AuditSequence int64      `json:"audit_sequence,omitempty"`
		Replica       string     `json:"replica,omitempty"`
	}
	// StepJSON is one step of a validation.
	StepJSON struct {
		Step    string `json:"step"`
		Store   string `json:"store,omitempty"`
		State   string `json:"state"`
		Reason  string `json:"reason,omitempty"`
		Message string `json:"message,omitempty"`
	}
	// ValidationJSON is the JSON output of integration validate.
	ValidationJSON struct {
		IntegrationID string     `json:"integration_id"`
		OK            bool       `json:"ok"`
		Steps         []StepJSON `json:"steps"`
	}
)

// validation is the result for one integration.
type validation struct {
	id    string
	steps []client.ValidationStep
}

func printStructured(w io.Writer, output string, v any) error {
	if output == "json" {
		return terminal.PrintJSON(w, v)
	}
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var plain map[string]any
	if err := json.Unmarshal(data, &plain); err != nil {
		return err
	}
	text, err := integration.EncodeYAML(plain)
	if err != nil {
		return err
	}
	_, err = w.Write(text)
	return err
}

func structuredIntegration(kinds *integration.Kinds, in *client.Integration, usage *client.ListUsageResponse) (IntegrationJSON, error) {
	doc, err := reconcile.DocumentOf(kinds, in)
	if err != nil {
		return IntegrationJSON{}, err
	}
	if usage == nil {
		usage = &client.ListUsageResponse{}
	}
	out := IntegrationJSON{
		Integration: doc.Tree(), UID: in.UID, ETag: in.ETag, Revision: in.Revision, CredentialNames: in.CredentialNames,
		CreateTime: timeOrNil(in.CreateTime), Creator: in.Creator, UpdateTime: timeOrNil(in.UpdateTime), Updater: in.Updater,
		ReadOnly: in.ReadOnly, LastUseTime: timeOrNil(in.LastUseTime), UnusedGrantIDs: usage.UnusedGrantIDs, State: string(in.State),
	}
	if r := in.UsageRecording; r != (client.UsageRecording{}) {
		out.UsageRecording = &RecordingJSON{timeOrNil(r.RecordedSince), timeOrNil(r.GrantsRecordedSince), r.ReplicaOnly}
	}
	for _, g := range in.Grants {
		out.GrantIDs = append(out.GrantIDs, g.ID)
	}
	for _, f := range in.Facts {
		out.Facts = append(out.Facts, FactJSON(f))
	}
	for _, p := range in.Problems {
		out.Problems = append(out.Problems, ProblemJSON{string(p.Reason), p.Message})
	}
	for i := range in.EventSources {
		out.EventSources = append(out.EventSources, structuredEventSource(&in.EventSources[i]))
	}
	for _, u := range usage.Usage {
		out.Resources = append(out.Resources, usageJSON(&u))
	}
	return out, nil
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func printIntegration(w io.Writer, kinds *integration.Kinds, output string, in *client.Integration, usage *client.ListUsageResponse) error {
	if output != "table" {
		v, err := structuredIntegration(kinds, in, usage)
		if err != nil {
			return err
		}
		return printStructured(w, output, v)
	}
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(t, "%s\t%s\n", name, terminal.Printable(value))
		}
	}
	row("ID", in.ID)
	row("Name", in.DisplayName)
	row("Provider", in.Kind)
	for _, f := range in.Facts {
		if !isDocument(f) {
			row(terminal.Printable(f.Name), f.Value)
		}
	}
	row("Cache", strings.Join(notEmpty(durationText("for ", in.CacheTTL), durationText("stale for ", in.CacheMaxStale)), ", "))
	row("Reads", readsText(in.Reads))
	for _, name := range in.CredentialNames {
		row("Credential stored", name)
	}
	row("Created", changeText(in.CreateTime, in.Creator))
	row("Updated", changeText(in.UpdateTime, in.Updater))
	used := momentText(in.LastUseTime)
	if used == "" {
		used = notUsedText(in.UsageRecording)
	}
	row("Last used", used)
	row("UID", in.UID)
	row("Revision", in.Revision)
	row("ETag", in.ETag)
	row("State", stateOf(in))
	for _, p := range in.Problems {
		row("Problem", string(p.Reason)+": "+p.Message)
	}
	printEventSources(row, in.EventSources)
	if err := t.Flush(); err != nil {
		return err
	}
	if in.State == client.IntegrationInactive {
		fmt.Fprintln(w, "\nNothing of this integration is in effect: every use is refused.")
	}
	printDocuments(w, in)
	return printParts(w, in, usage)
}

// isDocument reports whether the fact is a text of several lines, to copy into the store's
// configuration.
func isDocument(f client.Fact) bool { return strings.Contains(f.Value, "\n") }

func printDocuments(w io.Writer, in *client.Integration) {
	for _, f := range in.Facts {
		if isDocument(f) {
			fmt.Fprintf(w, "\n%s:\n%s\n", terminal.Printable(f.Name), terminal.PrintableLines(f.Value))
		}
	}
}

// printParts prints the lists of an integration.
func printParts(w io.Writer, in *client.Integration, usage *client.ListUsageResponse) error {
	used := make([]string, len(in.Grants))
	for i := range used {
		switch {
		case usage == nil:
			used[i] = "-"
		case slices.Contains(usage.UnusedGrantIDs, in.Grants[i].ID):
			used[i] = "no"
		default:
			used[i] = "yes"
		}
	}
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	if len(in.Grants) > 0 {
		fmt.Fprintln(t, "\nGRANT\tPRINCIPALS\tSTORES\tSECRETS\tKEYS\tUSED")
	}
	for i, g := range in.Grants {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", terminal.OrDash(g.ID), cell(g.Principals), cell(g.Stores), cell(g.Secrets), cell(g.Keys), used[i])
	}
	if len(in.Roles) > 0 {
		fmt.Fprintln(t, "\nROLE\tPRINCIPALS")
	}
	for _, role := range []client.Role{client.RoleResourceOwner, client.RoleAssigner, client.RoleAuditor, client.RoleRotator} {
		if patterns := in.Roles[role]; len(patterns) > 0 {
			fmt.Fprintf(t, "%s\t%s\n", role, cell(patterns))
		}
	}
	if usage == nil {
		usage = &client.ListUsageResponse{}
	}
	if len(usage.Usage) > 0 {
		fmt.Fprintln(t, "\nRESOURCE\tCONNECTOR\tSECRET\tVERSION\tFIRST USED\tLAST USED")
	}
	for i := range usage.Usage {
		u := &usage.Usage[i]
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", terminal.OrDash(u.Principal), terminal.OrDash(u.Connector), terminal.OrDash(secretText(u)), terminal.OrDash(u.Version), momentText(u.FirstUseTime), momentText(u.LastUseTime))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return printRecording(w, in)
}

func notEmpty(texts ...string) []string {
	var left []string
	for _, s := range texts {
		if s != "" {
			left = append(left, s)
		}
	}
	return left
}

func durationText(before string, d time.Duration) string {
	if d == 0 {
		return ""
	}
	return before + integration.FormatDuration(d)
}

func readsText(r client.IntegrationReads) string {
	number := func(n int, what string) string {
		if n == 0 {
			return ""
		}
		return strconv.Itoa(n) + what
	}
	return strings.Join(notEmpty(number(r.MaxConcurrent, " at a time"), number(r.PerSecond, " a second"), durationText("timeout ", r.Timeout)), ", ")
}

func changeText(at time.Time, by string) string {
	text := momentText(at)
	if by != "" {
		text += " by " + by
	}
	return text
}

func momentText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// cell formats a list as a cell of a table.
func cell(list []string) string {
	if len(list) == 0 {
		return "any"
	}
	return terminal.Printable(strings.Join(list, ", "))
}

// stepText describes a step for people.
func stepText(s client.ValidationStep) string {
	if s.Step == "READ_STORE" {
		return "read " + s.Store
	}
	return strings.TrimSpace(strings.ReplaceAll(strings.ToLower(s.Step), "_", " ") + " " + s.Store)
}

func printValidations(w io.Writer, output string, all []validation) error {
	if output != "table" {
		out := make([]ValidationJSON, len(all))
		for i, v := range all {
			out[i] = ValidationJSON{IntegrationID: v.id, OK: true}
			for _, s := range v.steps {
				out[i].OK = out[i].OK && !stepFailed(s)
				out[i].Steps = append(out[i].Steps, StepJSON{s.Step, s.Store, string(s.State), string(s.Reason), s.Message})
			}
		}
		return printStructured(w, output, map[string]any{"validations": out})
	}
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "INTEGRATION\tSTEP\tRESULT\tFOUND")
	for _, v := range all {
		for _, s := range v.steps {
			result := strings.ToLower(string(s.State))
			if s.State == client.StepFailed {
				result = string(s.Reason)
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", v.id, terminal.OrDash(stepText(s)), terminal.OrDash(result), terminal.OrDash(s.Message))
		}
	}
	return t.Flush()
}
