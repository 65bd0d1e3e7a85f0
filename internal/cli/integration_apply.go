package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/cli/exit"
	"github.com/secretbroker/secretbroker/internal/cli/reconcile"
	"github.com/secretbroker/secretbroker/internal/cli/terminal"
	"github.com/secretbroker/secretbroker/internal/integration"
)

const applyHelp = `Apply the integrations in a directory to a broker: create those that are missing,
update those that differ, and, with --prune, delete those that no file describes.
The command prints the plan first; with --dry-run it stops there. The files have
the format of "integrations:" in secretbroker.yaml, and "export" writes them.

The broker checks all changes before it makes the first one: if a file is invalid,
nothing is changed. The command does not change integrations that another client
has changed since the plan was made. With --prune, it does not delete integrations
that are in use unless --force is given. It never changes integrations that the
broker reads from files.

The command sends the credentials that the files name with new integrations, and
with integrations that have no credential of that name yet. The broker never
returns credentials, so the command cannot tell whether they differ;
--replace-credentials sends all of them.`

func newIntegrationApplyCommand(kinds *integration.Kinds) *cobra.Command {
	var (
		m    = managing{kinds: kinds}
		o    applyOptions
		dirs string
	)
	cmd := &cobra.Command{
		Use:   "apply {-f DIR | DIR}",
		Short: "Apply the integrations in a directory",
		Long:  applyHelp,
		Example: `  secretbroker integration apply -f integrations/ --dry-run
  secretbroker integration apply -f integrations/ --prune`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) > 0 && dirs != "":
				return &exit.Error{Code: exit.Usage, Err: errors.New("give the directory as the argument or with --file, not both")}
			case len(args) > 0:
				dirs = args[0]
			case dirs == "":
				return &exit.Error{Code: exit.Usage, Err: errors.New("name a directory or a file with --file")}
			}
			if o.exitCode && !o.dryRun {
				return &exit.Error{Code: exit.Usage, Err: errors.New("--exit-code requires --dry-run")}
			}
			documents, err := readDocuments(kinds, dirs)
			if err != nil {
				return &exit.Error{Code: exit.Usage, Err: err}
			}
			return m.do(cmd, func(ctx context.Context, cl *client.Client) error {
				return m.apply(ctx, cmd, cl, documents, o)
			})
		},
	}
	m.register(cmd)
	cmd.Flags().StringVarP(&dirs, "file", "f", "", "directory with one integration per .yaml file, or one such file; - is standard input (required)")
	cmd.Flags().BoolVar(&o.prune, "prune", false, "delete integrations that no file describes")
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "print the plan and change nothing")
	cmd.Flags().BoolVar(&o.exitCode, "exit-code", false, "with --dry-run: exit with 9 if there are changes")
	cmd.Flags().BoolVar(&o.replaceCredentials, "replace-credentials", false, "send all credentials that the files name, even if the broker has them")
	cmd.Flags().BoolVar(&o.force, "force", false, "delete integrations that are in use, and allow changes that remove your role RESOURCE_OWNER")
	cmd.Flags().BoolVarP(&o.yes, "yes", "y", false, "with --prune: do not ask for confirmation")
	return cmd
}

type applyOptions struct {
	prune, dryRun, exitCode, replaceCredentials, force, yes bool
}

// readDocuments reads the files of a directory like the broker, or one file. The error
// lists the errors of all files.
func readDocuments(kinds *integration.Kinds, path string) ([]*reconcile.Document, error) {
	files := []string{path}
	if path == "-" {
		// readDocument reads it.
	} else if info, err := os.Stat(path); err != nil {
		return nil, err
	} else if info.IsDir() {
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
		documents []*reconcile.Document
		faults    []error
	)
	first := make(map[string]string)
	for _, file := range files {
		d, err := readDocument(kinds, file)
		switch {
		case err != nil:
			faults = append(faults, err)
		case first[d.ID] != "":
			faults = append(faults, fmt.Errorf("%s:%d: id: %s has the same id; give each integration a unique id", file, d.Line("id"), first[d.ID]))
		default:
			first[d.ID] = file
			documents = append(documents, d)
		}
	}
	return documents, errors.Join(faults...)
}

// apply makes the plan, lets the broker check it, prints it, and applies it.
func (m *managing) apply(ctx context.Context, cmd *cobra.Command, cl *client.Client, documents []*reconcile.Document, o applyOptions) error {
	there, err := listIntegrations(ctx, cl, "")
	if err != nil {
		return err
	}
	plan, err := reconcile.NewPlan(documents, there, reconcile.Options{Kinds: m.kinds, Prune: o.prune, ReplaceCredentials: o.replaceCredentials})
	if err != nil {
		return &exit.Error{Code: exit.Usage, Err: err}
	}
	results := checkPlan(ctx, cl, plan, o)
	if m.output == "table" {
		printPlan(cmd.OutOrStdout(), plan)
	}
	if failed := failedOf(results); failed != nil || o.dryRun {
		return finishPlan(cmd, m.output, plan, results, o, "nothing was changed")
	}
	deletes := 0
	for i := range plan {
		if plan[i].Action == reconcile.Delete {
			deletes++
		}
	}
	if deletes > 0 && !o.yes {
		if err := terminal.Confirm(cmd, fmt.Sprintf("Delete %d integration(s) with their grants and credentials?", deletes)); err != nil {
			return err
		}
	}
	results = make([]error, len(plan))
	for i := range plan {
		results[i] = plan[i].Apply(ctx, cl, reconcile.ApplyOptions{Force: o.force})
		if m.output == "table" && results[i] == nil && plan[i].Action != reconcile.None {
			fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", plan[i].ID, pastOf(plan[i].Action))
		}
	}
	return finishPlan(cmd, m.output, plan, results, o, "the others were changed")
}

// checkPlan lets the broker check every change of the plan, so that one invalid change
// prevents all of them.
func checkPlan(ctx context.Context, cl *client.Client, plan reconcile.Plan, o applyOptions) []error {
	results := make([]error, len(plan))
	for i := range plan {
		results[i] = plan[i].Apply(ctx, cl, reconcile.ApplyOptions{Force: o.force, ValidateOnly: true})
	}
	return results
}

func failedOf(results []error) error {
	for _, err := range results {
		if err != nil {
			return err
		}
	}
	return nil
}
