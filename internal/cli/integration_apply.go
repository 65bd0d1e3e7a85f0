package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/manage"
)

const applyHelp = `Make a broker's integrations what the files of a directory say: create those that
are missing, change those that differ, and, with --prune, delete those that no file
describes. The plan is printed first; --dry-run leaves it at that. Files are those
that "integrations:" in broker.yaml takes, and export writes them.

The broker checks everything before anything is changed: if one file is not
acceptable, nothing is done. What has been changed by somebody else since the plan
was made is left alone, and so is, unless --force is given, what --prune would
delete although it is in use. Integrations that are files of the broker's are
never touched.

Credentials that the files name are sent with a new integration, and with one that
has none of that name yet; --replace-credentials sends them all, since nobody can
tell whether they differ.`

func newIntegrationApplyCommand() *cobra.Command {
	var (
		m    managing
		o    applyOptions
		dirs string
	)
	cmd := &cobra.Command{
		Use:   "apply -f DIR",
		Short: "Make integrations what the files of a directory say",
		Long:  applyHelp,
		Example: `  broker integration apply -f integrations/ --dry-run
  broker integration apply -f integrations/ --prune`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.exitCode && !o.dryRun {
				return &ExitError{ExitUsage, errors.New("--exit-code goes with --dry-run only")}
			}
			documents, err := readDocuments(dirs)
			if err != nil {
				return &ExitError{ExitUsage, err}
			}
			return m.do(cmd, func(ctx context.Context, cl *client.Client) error {
				return apply(ctx, cmd, cl, m.output, documents, o)
			})
		},
	}
	m.register(cmd)
	cmd.Flags().StringVarP(&dirs, "file", "f", "", "a directory with one integration in each .yaml file, or one such file (required)")
	cmd.Flags().BoolVar(&o.prune, "prune", false, "delete integrations that no file describes")
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "print the plan and change nothing")
	cmd.Flags().BoolVar(&o.exitCode, "exit-code", false, "with --dry-run: exit with 1 if there is something to change")
	cmd.Flags().BoolVar(&o.replaceCredentials, "replace-credentials", false, "send the credentials that the files name, also where the broker has some")
	cmd.Flags().BoolVar(&o.force, "force", false, "delete what is in use, and let changes take the role RESOURCE_OWNER away from you")
	_ = cmd.MarkFlagRequired("file") // the flag exists
	return cmd
}

type applyOptions struct {
	prune, dryRun, exitCode, replaceCredentials, force bool
}

// readDocuments reads a directory as the broker does, or one file. The error has
// the faults of all files.
func readDocuments(path string) ([]*document, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	files := []string{path}
	if info.IsDir() {
		entries, err := os.ReadDir(path)
		if err != nil {
			return nil, err
		}
		files = nil
		for _, e := range entries {
			if ext := filepath.Ext(e.Name()); !e.IsDir() && !strings.HasPrefix(e.Name(), ".") && (ext == ".yaml" || ext == ".yml") {
				files = append(files, filepath.Join(path, e.Name()))
			}
		}
	}
	var (
		documents []*document
		faults    []error
	)
	first := make(map[string]string)
	for _, file := range files {
		d, err := readDocument(file)
		switch {
		case err != nil:
			faults = append(faults, err)
		case first[d.ID] != "":
			faults = append(faults, fmt.Errorf("%s:%d: id: also that of %s; give each integration an id of its own", file, d.Line("id"), first[d.ID]))
		default:
			first[d.ID] = file
			documents = append(documents, d)
		}
	}
	return documents, errors.Join(faults...)
}

// planned is what is to be done with one integration.
type planned struct {
	action      string // create, update, delete; or none
	id          string
	document    *document           // nil for delete
	now         *client.Integration // nil for create
	changes     []manage.FieldChange
	credentials []string
}

// The actions of a plan.
const (
	actionCreate = "create"
	actionUpdate = "update"
	actionDelete = "delete"
	actionNone   = "none"
)

// apply makes the plan, has the broker check it, prints it, and carries it out.
func apply(ctx context.Context, cmd *cobra.Command, cl *client.Client, output string, documents []*document, o applyOptions) error {
	there, err := cl.ListIntegrations(ctx, "")
	if err != nil {
		return err
	}
	plan, err := makePlan(documents, there, o)
	if err != nil {
		return &ExitError{ExitUsage, err}
	}
	results := checkPlan(ctx, cl, plan, o)
	if output == "table" {
		printPlan(cmd.OutOrStdout(), plan)
	}
	if failed := failedOf(results); failed != nil || o.dryRun {
		return finishPlan(cmd, output, plan, results, o, "nothing was changed")
	}
	results = make([]error, len(plan))
	for i := range plan {
		results[i] = carryOut(ctx, cl, &plan[i], client.WriteOptions{Force: o.force})
		if output == "table" && results[i] == nil && plan[i].action != actionNone {
			fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", plan[i].id, pastOf(plan[i].action))
		}
	}
	return finishPlan(cmd, output, plan, results, o, "the others were changed")
}

func makePlan(documents []*document, there []*client.Integration, o applyOptions) ([]planned, error) {
	byID := make(map[string]*client.Integration, len(there))
	for _, in := range there {
		byID[in.ID] = in
	}
	var plan []planned
	for _, d := range documents {
		p := planned{action: actionCreate, id: d.ID, document: d, credentials: slices.Sorted(maps.Keys(d.credentials))}
		if p.now = byID[d.ID]; p.now == nil {
			p.changes = manage.Diff(nil, &d.Form)
			plan = append(plan, p)
			continue
		}
		delete(byID, d.ID)
		form, err := formOf(p.now)
		if err != nil {
			return nil, err
		}
		if err := manage.KeepGenerated(form, &d.Form); err != nil {
			return nil, err
		}
		p.action, p.changes = actionUpdate, manage.Diff(form, &d.Form)
		if !o.replaceCredentials {
			p.credentials = slices.DeleteFunc(p.credentials, func(name string) bool { return slices.Contains(p.now.CredentialNames, name) })
		}
		if len(p.changes)+len(p.credentials) == 0 {
			p.action = actionNone
		}
		plan = append(plan, p)
	}
	for _, id := range slices.Sorted(maps.Keys(byID)) {
		if o.prune && !byID[id].ReadOnly {
			plan = append(plan, planned{action: actionDelete, id: id, now: byID[id]})
		}
	}
	return plan, nil
}

// checkPlan has the broker check every part of the plan, so that a fault anywhere
// keeps everything as it is.
func checkPlan(ctx context.Context, cl *client.Client, plan []planned, o applyOptions) []error {
	results := make([]error, len(plan))
	for i := range plan {
		results[i] = carryOut(ctx, cl, &plan[i], client.WriteOptions{Force: o.force, ValidateOnly: true})
	}
	return results
}

func carryOut(ctx context.Context, cl *client.Client, p *planned, o client.WriteOptions) error {
	switch p.action {
	case actionDelete:
		o.ETag = p.now.ETag
		return cl.DeleteIntegration(ctx, p.id, o)
	case actionNone:
		return nil
	}
	in, err := p.document.integration(p.credentials)
	if err != nil {
		return &ExitError{ExitUsage, err}
	}
	if p.action == actionCreate {
		_, err = cl.CreateIntegration(ctx, in, o)
		return err
	}
	in.ETag = p.now.ETag
	_, _, err = cl.UpdateIntegration(ctx, in, []string{"*"}, o)
	return err
}

func failedOf(results []error) error {
	for _, err := range results {
		if err != nil {
			return err
		}
	}
	return nil
}
