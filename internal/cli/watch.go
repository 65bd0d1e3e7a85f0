package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/cli/exit"
	"github.com/secretbroker/secretbroker/internal/cli/terminal"
)

// watch is the watch command.
type watch struct {
	conn   Connection
	what   question
	files  []string
	output string
	once   bool

	sets  []referenceSet // in the order of the request
	width int            // of the longest name
	// failed has the configs that are denied or unreadable.
	failed map[watchedConfig]client.ConfigError
	// begun is set when the broker has told the state of every config, and lost while the
	// stream is interrupted.
	begun, lost bool
}

type watchedConfig struct {
	set    int
	config string
}

func newWatchCommand() *cobra.Command {
	w := watch{failed: make(map[watchedConfig]client.ConfigError)}
	cmd := &cobra.Command{
		Use:   "watch [NAME=REFERENCE ...]",
		Short: "Print when secrets change",
		Long: `Print the state of references at the beginning, and then each change, until Ctrl-C.
No value leaves the broker. The states are CURRENT, CHANGED, DENIED, UNREADABLE and
EXPIRING; docs/rotation.md explains them. With --once the command ends when it has
printed the state of every reference, or with an error after --timeout.

Give the references as NAME=REFERENCE, or name the configurations of connectors with
--file, which can be repeated, as for "secretbroker check". The caller needs a grant
for the secrets, or the role ROTATOR or RESOURCE_OWNER on their integration.

If the broker becomes unreachable, the command says so on standard error, and connects
again. Nothing that changes in between is lost. --output json prints one object on
each line; the one with "complete" follows the states at the beginning.

Exit codes: 0 after Ctrl-C, and with --once if every secret is readable, or if there
are no references; 2 the command line or a file is invalid; otherwise the code of the
worst failure, as for "secretbroker resolve".`,
		Example: `  secretbroker watch --file connector.json
  secretbroker watch --once --output json --file connector.json
  secretbroker watch --integration cspi-sqlserver \
      'password=https://my-vault.vault.azure.net::sqlserver-db-secret::password'`,
		RunE: w.run,
	}
	w.conn.register(cmd)
	w.what.registerReferences(cmd)
	terminal.RegisterOutput(cmd, &w.output, "table", "json")
	cmd.Flags().StringArrayVarP(&w.files, "file", "f", nil, "configurations of connectors: JSON, YAML or a .properties file; - is standard input (repeatable)")
	cmd.Flags().BoolVar(&w.once, "once", false, "end when the state of every reference is printed")
	_ = cmd.MarkFlagFilename("file", "json", "yaml", "yml", "properties") // the flag exists
	return cmd
}

func (w *watch) run(cmd *cobra.Command, args []string) error {
	var faults []client.ConfigError
	var err error
	if w.sets, faults, err = w.what.setsToWatch(args, w.files); err != nil {
		return &exit.Error{Code: exit.Usage, Err: err}
	}
	out := printer{output: w.output}
	if len(faults) > 0 {
		return out.printError(cmd, &client.Error{Code: codes.InvalidArgument, Reason: client.ReasonInvalidReference, Configs: faults})
	}
	if len(w.sets) == 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "no references to watch")
		return nil
	}
	cl, err := w.conn.dial()
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx := cmd.Context()
	if w.once {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, w.conn.Timeout)
		defer cancel()
	}
	for res, err := range cl.Watch(ctx, w.request()) {
		if cmd.Context().Err() != nil {
			return nil // Ctrl-C
		}
		if ctx.Err() != nil {
			err = &client.Error{Code: codes.DeadlineExceeded, Message: fmt.Sprintf(
				"the broker did not tell the state of every reference within %s; a store may not respond; use a larger --timeout to wait longer", w.conn.Timeout)}
		}
		if err == nil && res.Interrupted != nil && !w.begun {
			err = res.Interrupted
		}
		if err != nil {
			return out.printError(cmd, err)
		}
		if err := w.print(cmd, res); err != nil {
			return &exit.Error{Code: exit.Failure, Err: err}
		}
		if w.once && res.Complete {
			break
		}
	}
	if len(w.failed) > 0 {
		return &exit.Error{Code: worstExitCode(slices.Collect(maps.Values(w.failed)))}
	}
	return nil
}

// setsToWatch returns the references on the command line or in files. The faults are
// malformed references.
func (q *question) setsToWatch(args, files []string) (sets []referenceSet, faults []client.ConfigError, err error) {
	switch {
	case len(files) > 0 && len(args) > 0:
		return nil, nil, errArgsAndFile
	case len(files) > 1 && q.connector != "":
		return nil, nil, errors.New("--connector names one connector; omit it with several files, which name their own")
	case len(files) == 0:
		set, err := q.setOfArgs(args)
		return []referenceSet{set}, nil, err
	}
	for _, file := range files {
		connectors, err := readConnectors(file)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", file, err)
		}
		for _, c := range connectors {
			more, err := q.sets(c)
			if err != nil {
				return nil, nil, fmt.Errorf("%s: %w", file, err)
			}
			for _, set := range more {
				faults = append(faults, set.faults...)
			}
			sets = append(sets, more...)
		}
	}
	return sets, faults, nil
}

// request returns the request for all sets.
func (w *watch) request() client.WatchRequest {
	var req client.WatchRequest
	for i, set := range w.sets {
		req.Sets = append(req.Sets, client.WatchSet{IntegrationID: set.integration, Configs: set.configs, Connector: set.connector})
		for config := range set.configs {
			if !strings.HasPrefix(config, "secret.manager.") {
				w.width = min(max(w.width, len(w.name(i, config))), 60)
			}
		}
	}
	return req
}

// WatchJSON is one line of the JSON output of watch: the state of a config, or that the
// states of all were printed.
type WatchJSON struct {
	Time             time.Time  `json:"time"`
	IntegrationID    string     `json:"integration_id,omitempty"`
	Connector        string     `json:"connector,omitempty"`
	Config           string     `json:"config,omitempty"`
	State            string     `json:"state,omitempty"`
	Version          string     `json:"version,omitempty"`
	FetchTime        time.Time  `json:"fetch_time,omitzero"`
	SecretExpireTime time.Time  `json:"secret_expire_time,omitzero"`
	Generated        bool       `json:"generated,omitempty"`
	Error            *ErrorJSON `json:"error,omitempty"`
	Complete         bool       `json:"complete,omitempty"`
	RequestID        string     `json:"request_id,omitempty"` // of the stream, in its first line
}

// print prints what Watch tells.
func (w *watch) print(cmd *cobra.Command, res *client.WatchResponse) error {
	at := res.AsOfTime
	if at.IsZero() {
		at = time.Now()
	}
	enc := json.NewEncoder(cmd.OutOrStdout())
	enc.SetEscapeHTML(false)
	for i := range res.Notices {
		n := &res.Notices[i]
		key := watchedConfig{n.Set, n.Config}
		if n.Err != nil {
			w.failed[key] = *n.Err
		} else {
			delete(w.failed, key)
		}
		var err error
		if w.output == "json" {
			err = enc.Encode(w.json(n, at, res.RequestID))
		} else {
			_, err = fmt.Fprintln(cmd.OutOrStdout(), w.line(n, at))
		}
		if err != nil {
			return err
		}
	}
	if res.Interrupted != nil && !w.lost {
		w.lost = true
		fmt.Fprintf(cmd.ErrOrStderr(), "interrupted: %s; connecting again\n", terminal.Printable(res.Interrupted.Error()))
	}
	if !res.Complete {
		return nil
	}
	if w.output == "json" {
		if err := enc.Encode(WatchJSON{Time: at, Complete: true, RequestID: res.RequestID}); err != nil {
			return err
		}
	}
	switch {
	case w.lost:
		fmt.Fprintln(cmd.ErrOrStderr(), "connected again")
	case !w.begun && !w.once && w.output != "json":
		fmt.Fprintf(cmd.ErrOrStderr(), "waiting for changes of secrets of %s; Ctrl-C ends\n", w.integrations())
	}
	w.begun, w.lost = true, false
	return nil
}

func (w *watch) json(n *client.Notice, at time.Time, requestID string) WatchJSON {
	set := &w.sets[n.Set]
	out := WatchJSON{
		Time: at, IntegrationID: set.integration, Connector: set.connector, Config: n.Config, State: string(n.State), Version: n.Version,
		FetchTime: n.FetchTime, SecretExpireTime: n.SecretExpireTime, Generated: n.Generated, RequestID: requestID,
	}
	if n.Err != nil {
		e := newJSONError(*n.Err)
		e.Config = ""
		out.Error = &e
	}
	return out
}

// name names a config for people: with several sets together with its connector, or its
// integration.
func (w *watch) name(set int, config string) string {
	if len(w.sets) == 1 {
		return terminal.Printable(config)
	}
	return terminal.Printable(cmp.Or(w.sets[set].connector, w.sets[set].integration) + "/" + config)
}

// line formats a notice for people.
func (w *watch) line(n *client.Notice, at time.Time) string {
	line := fmt.Sprintf("%s  %-10s  %-*s", at.Format(time.RFC3339), n.State, w.width, w.name(n.Set, n.Config))
	if n.Version != "" {
		line += "  " + terminal.Printable(n.Version)
	}
	if n.State == client.NoticeExpiring || n.Generated {
		line += "  until " + n.SecretExpireTime.Format(time.RFC3339)
	}
	if n.Err != nil {
		line += "  " + string(n.Err.Reason) + ": " + terminal.Printable(n.Err.Message)
	}
	return strings.TrimRight(line, " ")
}

// integrations names the integrations of all sets.
func (w *watch) integrations() string {
	var ids []string
	for _, set := range w.sets {
		ids = append(ids, terminal.Printable(set.integration))
	}
	slices.Sort(ids)
	return strings.Join(slices.Compact(ids), ", ")
}
