package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/cli/exit"
	"github.com/secretbroker/secretbroker/internal/cli/reconcile"
	"github.com/secretbroker/secretbroker/internal/cli/terminal"
	"github.com/secretbroker/secretbroker/internal/integration"
)

// credentialHelp is part of the help of all commands that send credentials.
const credentialHelp = `
The command reads the credentials that the file names (client_secret_file and the
like) on this machine and sends them with the integration. --credential NAME=FILE
sends one that the file does not name; NAME is the setting without "_file". The
broker stores credentials sealed and never returns them.`

// writing has the flags of commands that change an integration.
type writing struct {
	managing
	file        string
	credentials []string
	dryRun      bool
}

func (w *writing) register(cmd *cobra.Command) {
	w.managing.register(cmd)
	cmd.Flags().BoolVar(&w.dryRun, "dry-run", false, "let the broker check everything, and change nothing")
}

func (w *writing) registerFile(cmd *cobra.Command, usage string) {
	cmd.Flags().StringVarP(&w.file, "file", "f", "", usage)
	cmd.Flags().StringArrayVar(&w.credentials, "credential", nil, "credential to send as NAME=FILE; FILE - is standard input (repeatable)")
	_ = cmd.MarkFlagFilename("file", "yaml", "yml") // the flag exists
}

// read returns the document of --file, nil without it, and the integration of the flags.
// Without --file the integration has only credentials.
func (w *writing) read() (*reconcile.Document, *client.Integration, error) {
	var stdin int
	for _, c := range w.credentials {
		if strings.HasSuffix(c, "=-") {
			stdin++
		}
	}
	if w.file == "-" {
		stdin++
	}
	if stdin > 1 {
		return nil, nil, &exit.Error{Code: exit.Usage, Err: errors.New("only one of --file and --credential can be - (standard input)")}
	}
	given, err := readCredentials(w.credentials)
	if err != nil {
		return nil, nil, &exit.Error{Code: exit.Usage, Err: err}
	}
	if w.file == "" {
		return nil, &client.Integration{Credentials: given}, nil
	}
	d, err := readDocument(w.kinds, w.file)
	if err != nil {
		return nil, nil, &exit.Error{Code: exit.Usage, Err: err}
	}
	in, err := d.Integration(slices.Sorted(maps.Keys(d.Credentials)))
	if err != nil {
		return nil, nil, &exit.Error{Code: exit.Usage, Err: err}
	}
	for name, content := range given {
		if in.Credentials == nil {
			in.Credentials = make(map[string][]byte)
		}
		in.Credentials[name] = content
	}
	return d, in, nil
}

// done prints what was done, or the integration.
func (w *writing) done(cmd *cobra.Command, what string, in *client.Integration) error {
	if w.output != "table" {
		return printed(printIntegration(cmd.OutOrStdout(), w.kinds, w.output, in, nil))
	}
	if w.dryRun {
		what = "would be " + what
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", in.ID, what)
	return nil
}

func newIntegrationCreateCommand(kinds *integration.Kinds) *cobra.Command {
	w := writing{managing: managing{kinds: kinds}}
	cmd := &cobra.Command{
		Use:   "create -f FILE",
		Short: "Create an integration",
		Long:  "Create an integration from a file in the format of docs/configuration.md, and\nprint the policies that its cloud needs, if any. The broker generates an\nexternal_id for an AWS role without one.\n" + credentialHelp,
		Example: `  secretbroker integration create -f cspi-sqlserver.yaml
  secretbroker integration create -f cspi-sqlserver.yaml --credential azure.credential.client_secret=secret.txt`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, in, err := w.read()
			if err != nil {
				return err
			}
			return w.do(cmd, func(ctx context.Context, cl *client.Client) error {
				out, err := cl.CreateIntegration(ctx, client.CreateIntegrationRequest{Integration: in, ValidateOnly: w.dryRun})
				if err != nil {
					return err
				}
				if err := w.done(cmd, "created", out.Integration); err != nil || w.output != "table" || w.dryRun {
					return err
				}
				printDocuments(cmd.OutOrStdout(), out.Integration)
				return nil
			})
		},
	}
	w.register(cmd)
	w.registerFile(cmd, "the integration's file; - is standard input (required)")
	_ = cmd.MarkFlagRequired("file") // the flag exists
	return cmd
}

const updateHelp = `Change an integration: replace it with the content of a file (--file), or change
single settings (--set, --unset, --name). Name a setting by its path in the file,
with dots: cache.ttl, azure.tenant_id. Separate the entries of a list with commas.

With --etag, the broker makes the change only if the integration still has this
etag. A change that removes your own role RESOURCE_OWNER requires --force.
`

func newIntegrationUpdateCommand(kinds *integration.Kinds) *cobra.Command {
	var (
		w          = writing{managing: managing{kinds: kinds}}
		name, etag string
		set, unset []string
		force      bool
	)
	cmd := &cobra.Command{
		Use:   "update ID",
		Short: "Change an integration",
		Long:  updateHelp + credentialHelp,
		Example: `  secretbroker integration update cspi-sqlserver --set cache.ttl=10m
  secretbroker integration update cspi-sqlserver --credential azure.credential.client_secret=new-secret.txt
  secretbroker integration update cspi-sqlserver -f cspi-sqlserver.yaml`,
		Args:              idArgs(cobra.ExactArgs(1)),
		ValidArgsFunction: w.completeOneID,
		RunE: func(cmd *cobra.Command, args []string) error {
			document, in, err := w.read()
			if err != nil {
				return err
			}
			edits := edits{name: name, set: set, unset: unset, named: cmd.Flags().Changed("name")}
			switch {
			case w.file != "" && !edits.empty():
				return &exit.Error{Code: exit.Usage, Err: errors.New("--file replaces the whole integration; remove --name, --set and --unset")}
			case w.file != "" && in.ID != args[0]:
				return &exit.Error{Code: exit.Usage, Err: fmt.Errorf("%s: its id is %q, not %q", w.file, in.ID, args[0])}
			case w.file == "" && edits.empty() && len(in.Credentials) == 0:
				return &exit.Error{Code: exit.Usage, Err: errors.New("nothing to change; give --file, --name, --set, --unset or --credential")}
			}
			return w.do(cmd, func(ctx context.Context, cl *client.Client) error {
				now, err := cl.GetIntegration(ctx, client.GetIntegrationRequest{IntegrationID: args[0]})
				if err != nil {
					return err
				}
				var mask []string
				if document != nil {
					in, mask, err = reconcile.NewUpdate(kinds, document, in, now.Integration)
				} else {
					in, mask, err = edits.apply(kinds, now.Integration, in.Credentials)
				}
				if err != nil {
					return &exit.Error{Code: exit.Usage, Err: err}
				}
				if etag != "" {
					in.ETag = etag
				}
				out, err := cl.UpdateIntegration(ctx, client.UpdateIntegrationRequest{Integration: in, Mask: mask, ValidateOnly: w.dryRun, Force: force})
				if err != nil {
					return err
				}
				what := "updated: " + strings.Join(out.ChangedFields, ", ")
				if len(out.ChangedFields) == 0 {
					what = "unchanged"
				}
				return w.done(cmd, what, out.Integration)
			})
		},
	}
	w.register(cmd)
	w.registerFile(cmd, "file with the new integration; - is standard input")
	cmd.Flags().StringVar(&name, "name", "", "new display name (display_name)")
	cmd.Flags().StringArrayVar(&set, "set", nil, "SETTING=VALUE (repeatable)")
	cmd.Flags().StringArrayVar(&unset, "unset", nil, "setting to remove (repeatable)")
	cmd.Flags().StringVar(&etag, "etag", "", "change only if the integration still has this etag")
	cmd.Flags().BoolVar(&force, "force", false, "allow a change that removes your role RESOURCE_OWNER")
	return cmd
}

// edits are changes of single settings.
type edits struct {
	name       string
	named      bool
	set, unset []string
}

func (e *edits) empty() bool { return !e.named && len(e.set)+len(e.unset) == 0 }

// apply returns the edited integration with credentials, and the mask with the settings that
// were edited and no others. It edits the document and parses that, so that the settings are
// parsed and checked like those of a file.
func (e *edits) apply(kinds *integration.Kinds, in *client.Integration, credentials map[string][]byte) (*client.Integration, []string, error) {
	if e.empty() {
		return &client.Integration{ID: in.ID, ETag: in.ETag, Credentials: credentials}, nil, nil
	}
	doc, err := reconcile.DocumentOf(kinds, in)
	if err != nil {
		return nil, nil, err
	}
	settings := slices.Clone(e.unset)
	if e.named {
		doc.DisplayName = e.name
		settings = append(settings, "display_name")
	}
	tree := doc.Tree()
	for _, s := range e.set {
		setting, value, ok := strings.Cut(s, "=")
		if !ok || setting == "" || value == "" {
			return nil, nil, errors.New("--set: expected SETTING=VALUE, such as cache.ttl=10m")
		}
		if err := put(tree, strings.Split(setting, "."), valueOf(setting, value, tree)); err != nil {
			return nil, nil, fmt.Errorf("--set %s: %w", setting, err)
		}
		settings = append(settings, setting)
	}
	for _, setting := range e.unset {
		if err := put(tree, strings.Split(setting, "."), nil); err != nil {
			return nil, nil, fmt.Errorf("--unset %s: %w", setting, err)
		}
	}
	data, err := integration.EncodeYAML(tree)
	if err != nil {
		return nil, nil, err
	}
	edited := kinds.DecodeDocument(in.ID, data)
	if err := edited.Faults.Err(); err != nil {
		return nil, nil, err
	}
	if edited.ID != in.ID || string(edited.Kind) != in.Kind {
		return nil, nil, errors.New("id and kind cannot be changed; create another integration")
	}
	out := reconcile.IntegrationOf(&edited.Document)
	out.Credentials, out.ETag, out.Unknown = credentials, in.ETag, in.Unknown
	return out, reconcile.Mask(doc.Section(), settings, edited.Tree()), nil
}

// valueOf parses a value of the command line. It is a list if the document has a list there
// or if it contains a comma.
func valueOf(setting, value string, tree map[string]any) any {
	_, isList := at(tree, strings.Split(setting, ".")).([]any)
	if !isList && !strings.Contains(value, ",") {
		switch value {
		case "true":
			return true
		case "false":
			return false
		}
		return value
	}
	var list []any
	for entry := range strings.SplitSeq(value, ",") {
		list = append(list, strings.TrimSpace(entry))
	}
	return list
}

func at(tree map[string]any, path []string) any {
	v := tree[path[0]]
	if inner, ok := v.(map[string]any); ok && len(path) > 1 {
		return at(inner, path[1:])
	}
	return v
}

// put sets the value at path, or removes it if value is nil, and removes empty sections.
func put(tree map[string]any, path []string, value any) error {
	name := path[0]
	if name == "" || name == "grants" {
		return errors.New("expected a setting with its section, such as cache.ttl; use grant and revoke to change grants")
	}
	if len(path) == 1 {
		if value == nil {
			delete(tree, name)
		} else {
			tree[name] = value
		}
		return nil
	}
	section, ok := tree[name].(map[string]any)
	if !ok {
		if tree[name] != nil {
			return fmt.Errorf("%s is not a section", name)
		}
		section = make(map[string]any)
	}
	if err := put(section, path[1:], value); err != nil {
		return err
	}
	tree[name] = section
	if len(section) == 0 {
		delete(tree, name)
	}
	return nil
}

func newIntegrationDeleteCommand(kinds *integration.Kinds) *cobra.Command {
	var (
		m             = managing{kinds: kinds}
		etag          string
		force, dryRun bool
		yes           bool
	)
	cmd := &cobra.Command{
		Use:     "delete ID",
		Aliases: []string{"rm"},
		Short:   "Delete an integration that is not in use",
		Long: `Delete an integration with its grants and credentials. The command
fails if the integration was used within the usage window (usage.window in
secretbroker.yaml), and the error lists who used it; --force deletes it nevertheless.

At a terminal, the command asks for confirmation unless --yes is given.`,
		Example:           "  secretbroker integration delete cspi-sqlserver",
		Args:              idArgs(cobra.ExactArgs(1)),
		ValidArgsFunction: m.completeOneID,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !yes && !dryRun {
				if err := terminal.Confirm(cmd, "Delete the integration "+terminal.Printable(args[0])+" with its grants and credentials?"); err != nil {
					return err
				}
			}
			return m.do(cmd, func(ctx context.Context, cl *client.Client) error {
				if _, err := cl.DeleteIntegration(ctx, client.DeleteIntegrationRequest{IntegrationID: args[0], ETag: etag, Force: force, ValidateOnly: dryRun}); err != nil {
					return err
				}
				what := "deleted"
				if dryRun {
					what = "would be deleted"
				}
				if m.output != "table" {
					return printed(printStructured(cmd.OutOrStdout(), m.output, map[string]any{"integration_id": args[0], "deleted": !dryRun}))
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", args[0], what)
				return nil
			})
		},
	}
	m.register(cmd)
	cmd.Flags().StringVar(&etag, "etag", "", "delete only if the integration still has this etag")
	cmd.Flags().BoolVar(&force, "force", false, "delete the integration even if it is in use")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask for confirmation")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "let the broker check everything, and change nothing")
	return cmd
}
