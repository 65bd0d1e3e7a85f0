package cli

import (
	"fmt"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/cli/exit"
	"github.com/secretbroker/secretbroker/internal/cli/terminal"
)

func newRefreshCommand() *cobra.Command {
	var (
		conn   Connection
		what   question
		file   string
		output string
	)
	cmd := &cobra.Command{
		Use:   "refresh [NAME=REFERENCE ...]",
		Short: "Make a broker read secrets from their stores now",
		Long: `Make a broker read secrets from their stores now, and wait up to two seconds until none
of its replicas answers with an older value. Use the command after a rotation: it
prints the versions that were read, and the replicas that did not acknowledge. No
value leaves the broker.

Give the references as NAME=REFERENCE, or name the configuration of a connector with
--file, as for "secretbroker resolve". The caller needs a grant for the secrets, or the
role ROTATOR or RESOURCE_OWNER on their integration.

Exit codes: 0 success, also if the replicas share no database, which the command then
says; 9 the secrets were read, but replicas did not acknowledge; 2 the command line or
the file is invalid; otherwise the code of the worst failure, as for "secretbroker
resolve".`,
		Example: `  secretbroker refresh --integration cspi-sqlserver \
      'password=https://my-vault.vault.azure.net::sqlserver-db-secret'
  secretbroker refresh --file connector.json --output json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			set, found, err := what.setToResolve(args, file)
			out := printer{output: output}
			switch {
			case err != nil:
				return &exit.Error{Code: exit.Usage, Err: err}
			case !found:
				fmt.Fprintln(cmd.ErrOrStderr(), "no references to refresh")
				return nil
			case len(set.faults) > 0:
				return out.printError(cmd, &client.Error{Code: codes.InvalidArgument, Reason: client.ReasonInvalidReference, Configs: set.faults})
			}
			cl, err := conn.dial()
			if err != nil {
				return err
			}
			defer cl.Close()
			res, err := cl.Refresh(cmd.Context(), client.RefreshRequest{IntegrationID: set.integration, Configs: set.configs, Connector: set.connector})
			if err != nil {
				return out.printError(cmd, err)
			}
			return printRefreshed(cmd, output, res)
		},
	}
	conn.register(cmd)
	what.registerReferences(cmd)
	terminal.RegisterOutput(cmd, &output, "table", "json")
	cmd.Flags().StringVarP(&file, "file", "f", "", "configuration of a connector: JSON, YAML or a .properties file; - is standard input")
	_ = cmd.MarkFlagFilename("file", "json", "yaml", "yml", "properties") // the flag exists
	return cmd
}

type (
	// RefreshJSON is the JSON output of refresh.
	RefreshJSON struct {
		Configs map[string]RefreshedJSON `json:"configs"`
		Errors  map[string]ErrorJSON     `json:"errors,omitempty"`
		// Coverage is that of the API, without its prefix.
		Coverage       string        `json:"coverage"`
		Unacknowledged []ReplicaJSON `json:"unacknowledged,omitempty"`
		RequestID      string        `json:"request_id,omitempty"`
	}
	// RefreshedJSON is the version of one config.
	RefreshedJSON struct {
		Version          string    `json:"version"`
		FetchTime        time.Time `json:"fetch_time"`
		SecretExpireTime time.Time `json:"secret_expire_time,omitzero"`
	}
	// ReplicaJSON is a replica that did not acknowledge.
	ReplicaJSON struct {
		ID           string    `json:"id"`
		Name         string    `json:"name"`
		LastSeenTime time.Time `json:"last_seen_time"`
	}
)

// printRefreshed prints the answer of a broker, and returns the error with its exit code.
func printRefreshed(cmd *cobra.Command, output string, res *client.RefreshResponse) error {
	failed := configErrors(res.Errors)
	var err error
	if output == "json" {
		err = terminal.PrintJSON(cmd.OutOrStdout(), newRefreshJSON(res, failed))
	} else if err = printRefreshedTable(cmd, res); err == nil {
		printConfigErrors(cmd.ErrOrStderr(), failed)
		if len(res.Configs) > 0 { // otherwise there was nothing to tell other replicas
			printCoverage(cmd, res)
		}
	}
	switch {
	case err != nil:
		return &exit.Error{Code: exit.Failure, Err: err}
	case len(failed) > 0:
		return &exit.Error{Code: worstExitCode(failed)}
	case res.Coverage != client.CoverageAllReplicas && res.Coverage != client.CoverageThisReplica:
		return &exit.Error{Code: exit.Findings}
	}
	return nil
}

func newRefreshJSON(res *client.RefreshResponse, failed []client.ConfigError) RefreshJSON {
	out := RefreshJSON{Configs: make(map[string]RefreshedJSON), Errors: errorsByConfig(failed), Coverage: string(res.Coverage), RequestID: res.RequestID}
	for config, r := range res.Configs {
		out.Configs[config] = RefreshedJSON(r)
	}
	for _, r := range res.Unacknowledged {
		out.Unacknowledged = append(out.Unacknowledged, ReplicaJSON(r))
	}
	return out
}

func printRefreshedTable(cmd *cobra.Command, res *client.RefreshResponse) error {
	if len(res.Configs) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "CONFIG\tVERSION\tREAD\tEXPIRES")
	for _, config := range slices.Sorted(maps.Keys(res.Configs)) {
		r := res.Configs[config]
		expires := "never"
		if !r.SecretExpireTime.IsZero() {
			expires = r.SecretExpireTime.Format(time.RFC3339)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", terminal.Printable(config), terminal.OrDash(r.Version), r.FetchTime.Format(time.RFC3339Nano), expires)
	}
	return t.Flush()
}

// printCoverage says which replicas may still answer with older values.
func printCoverage(cmd *cobra.Command, res *client.RefreshResponse) {
	w := cmd.ErrOrStderr()
	switch res.Coverage {
	case client.CoverageAllReplicas:
		fmt.Fprintln(cmd.OutOrStdout(), "no replica answers with an older value")
	case client.CoverageThisReplica:
		fmt.Fprintln(cmd.OutOrStdout(), "only the replica that answered has read them: the broker shares no database with others")
	case client.CoverageSomeReplicas:
		fmt.Fprintln(w, "replicas that may answer with older values, because they did not acknowledge:")
		for _, r := range res.Unacknowledged {
			fmt.Fprintf(w, "  %s (%s), last seen %s\n", terminal.OrDash(r.Name), terminal.OrDash(r.ID), r.LastSeenTime.Format(time.RFC3339))
		}
	default:
		fmt.Fprintln(w, "the broker could not tell its other replicas; they may answer with older values until their time-to-live ends")
	}
}
