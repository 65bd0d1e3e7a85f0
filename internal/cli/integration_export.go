package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/cli/exit"
	"github.com/secretbroker/secretbroker/internal/cli/reconcile"
	"github.com/secretbroker/secretbroker/internal/cli/terminal"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/keyfile"
)

const exportHelp = `Write each integration to a file in the format of "apply" and of "integrations:" in
secretbroker.yaml. The files do not contain the credentials that the broker stores:
"apply" keeps them, and for "integrations:" each needs a file and the setting that
names it. A comment at the top of the file lists these settings.

If the broker uses the last valid version of an integration because its file is invalid
now or has disappeared, that version is exported, with a comment and a warning. Of an
invalid integration of which nothing is in effect, nothing is written, and the
command fails.

Without --dir, the command writes one integration to standard output. It replaces
existing files that differ only with --force.`

func newIntegrationExportCommand(kinds *integration.Kinds) *cobra.Command {
	var (
		conn  Connection
		dir   string
		force bool
	)
	m := managing{kinds: kinds, output: "table"}
	cmd := &cobra.Command{
		Use:     "export [ID ...]",
		Short:   "Write integrations as files",
		Long:    exportHelp,
		Example: "  secretbroker integration export --dir integrations/\n  secretbroker integration export cspi-sqlserver > cspi-sqlserver.yaml",
		Args:    idArgs(cobra.ArbitraryArgs),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
			m.conn = conn
			return m.completeIDs(cmd, args, toComplete)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if dir == "" && len(args) != 1 {
				return &exit.Error{Code: exit.Usage, Err: errors.New("give --dir to export several integrations, or the id of one")}
			}
			m.conn = conn
			return m.do(cmd, func(ctx context.Context, cl *client.Client) error {
				all, err := exported(ctx, cl, args)
				if err != nil {
					return err
				}
				if dir == "" {
					data, err := exportOf(kinds, all[0])
					var faulty *exit.Error
					if errors.As(err, &faulty) {
						return faulty
					}
					if err == nil {
						warnInEffect(cmd, all[0])
						_, err = cmd.OutOrStdout().Write(data)
					}
					return printed(err)
				}
				return export(cmd, kinds, dir, all, force)
			})
		},
	}
	conn.register(cmd)
	cmd.Flags().StringVar(&dir, "dir", "", "directory to write to; it is created if it does not exist")
	cmd.Flags().BoolVar(&force, "force", false, "replace files that differ")
	_ = cmd.MarkFlagDirname("dir") // the flag exists
	return cmd
}

// exported reads the integrations with these ids, or all if there are none.
func exported(ctx context.Context, cl *client.Client, ids []string) ([]*client.Integration, error) {
	if len(ids) == 0 {
		return listIntegrations(ctx, cl, "")
	}
	var all []*client.Integration
	for _, id := range ids {
		out, err := cl.GetIntegration(ctx, client.GetIntegrationRequest{IntegrationID: id})
		if err != nil {
			return nil, err
		}
		all = append(all, out.Integration)
	}
	return all, nil
}

// exportOf returns the file of an integration. It refuses one with parts that this version
// does not know: the file would lack them, and a grant without its conditions allows more.
func exportOf(kinds *integration.Kinds, in *client.Integration) ([]byte, error) {
	if len(in.Unknown) > 0 {
		return nil, fmt.Errorf("%s: %s has fields or values that this version of the command does not know; export it with a newer version", in.ID, strings.Join(in.Unknown, ", "))
	}
	if i := slices.IndexFunc(in.Problems, func(p client.Problem) bool { return p.Reason == client.ReasonInvalidIntegration }); i >= 0 && in.State != client.IntegrationDegraded {
		return nil, &exit.Error{Code: exit.Precondition, Err: fmt.Errorf("%s is invalid, and nothing of it is in effect, so there is nothing to export: %s", in.ID, in.Problems[i].Message)}
	}
	doc, err := reconcile.DocumentOf(kinds, in)
	if err != nil {
		return nil, err
	}
	document, err := doc.Encode()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if in.State != client.IntegrationActive {
		for _, p := range in.Problems {
			fmt.Fprintf(&b, "# %s: %s\n", stateOf(in), oneLine(p.Message))
		}
	}
	for _, name := range in.CredentialNames {
		fmt.Fprintf(&b, "# The broker stores %s. To read it from a file instead, set %s_file.\n", name, name)
	}
	b.Write(document)
	return b.Bytes(), nil
}

// oneLine returns a text of the broker that fits into a comment.
func oneLine(s string) string { return strings.Join(strings.Fields(terminal.Printable(s)), " ") }

// warnInEffect warns if what is exported is not what the broker's file contains.
func warnInEffect(cmd *cobra.Command, in *client.Integration) {
	if in.State == client.IntegrationDegraded {
		fmt.Fprintf(cmd.ErrOrStderr(), "Warning: %s is faulty; the exported version is the last valid one, which is in effect: %s\n", in.ID, oneLine(in.Problems[0].Message))
	}
}

func export(cmd *cobra.Command, kinds *integration.Kinds, dir string, all []*client.Integration, force bool) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return &exit.Error{Code: exit.Failure, Err: err}
	}
	var kept []error
	code := exit.Failure
	for _, in := range all {
		if err := checkID("not written: an integration's id", in.ID); err != nil { // it would be a part of a path
			kept = append(kept, err)
			continue
		}
		data, err := exportOf(kinds, in)
		if err != nil {
			kept = append(kept, err)
			var faulty *exit.Error
			if errors.As(err, &faulty) {
				code = faulty.Code
			}
			continue
		}
		warnInEffect(cmd, in)
		path := filepath.Join(dir, in.ID+".yaml")
		old, err := os.ReadFile(path)
		switch {
		case err == nil && bytes.Equal(old, data):
			continue
		case err == nil && !force:
			kept = append(kept, fmt.Errorf("%s: the file exists and differs; use --force to replace it", path))
			continue
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return &exit.Error{Code: exit.Failure, Err: err}
		}
		if err := keyfile.Replace(path, data); err != nil {
			return &exit.Error{Code: exit.Failure, Err: err}
		}
		fmt.Fprintln(cmd.OutOrStdout(), path)
	}
	if err := errors.Join(kept...); err != nil {
		return &exit.Error{Code: code, Err: err}
	}
	return nil
}
