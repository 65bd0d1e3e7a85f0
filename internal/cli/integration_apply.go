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
	"github.com/secretbroker/secretbroker/internal/cli/reconcile"
	"github.com/secretbroker/secretbroker/internal/integration"
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

func newIntegrationApplyCommand(kinds *integration.Kinds) *cobra.Command {
	var (
		m    = managing{kinds: kinds}
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
			documents, err := readDocuments(kinds, dirs)
			if err != nil {
				return &ExitError{ExitUsage, err}
			}
			return m.do(cmd, func(ctx context.Context, cl *client.Client) error {
				return m.apply(ctx, cmd, cl, documents, o)
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
func readDocuments(kinds *integration.Kinds, path string) ([]*reconcile.Document, error) {
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
			faults = append(faults, fmt.Errorf("%s:%d: id: also that of %s; give each integration an id of its own", file, d.Line("id"), first[d.ID]))
		default:
			first[d.ID] = file
			documents = append(documents, d)
		}
	}
	return documents, errors.Join(faults...)
}

// apply makes the plan, has the broker check it, prints it, and carries it out.
func (m *managing) apply(ctx context.Context, cmd *cobra.Command, cl *client.Client, documents []*reconcile.Document, o applyOptions) error {
	there, err := cl.ListIntegrations(ctx, "")
	if err != nil {
		return err
	}
	plan, err := reconcile.NewPlan(documents, there, reconcile.Options{Kinds: m.kinds, Prune: o.prune, ReplaceCredentials: o.replaceCredentials})
	if err != nil {
		return &ExitError{ExitUsage, err}
	}
	results := checkPlan(ctx, cl, plan, o)
	if m.output == "table" {
		printPlan(cmd.OutOrStdout(), plan)
	}
	if failed := failedOf(results); failed != nil || o.dryRun {
		return finishPlan(cmd, m.output, plan, results, o, "nothing was changed")
	}
	results = make([]error, len(plan))
	for i := range plan {
		results[i] = plan[i].Apply(ctx, cl, client.WriteOptions{Force: o.force})
		if m.output == "table" && results[i] == nil && plan[i].Action != reconcile.None {
			fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", plan[i].ID, pastOf(plan[i].Action))
		}
	}
	return finishPlan(cmd, m.output, plan, results, o, "the others were changed")
}

// checkPlan has the broker check every part of the plan, so that a fault anywhere
// keeps everything as it is.
func checkPlan(ctx context.Context, cl *client.Client, plan reconcile.Plan, o applyOptions) []error {
	results := make([]error, len(plan))
	for i := range plan {
		results[i] = plan[i].Apply(ctx, cl, client.WriteOptions{Force: o.force, ValidateOnly: true})
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
