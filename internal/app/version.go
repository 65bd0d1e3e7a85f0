package app

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/internal/cli/terminal"
)

// version is set by the linker for releases.
var version = ""

// buildVersion returns the version of the release, or the version control information in
// the binary.
func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// VersionJSON is the output of "secretbroker version --output json".
type VersionJSON struct {
	Version string `json:"version"`
	// Commit is the revision of the source code, "" if the binary does not say.
	Commit string `json:"commit"`
	// Modified says that the source code had changes that were not committed.
	Modified bool   `json:"modified"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
	// API is the package of the protocol.
	API string `json:"api"`
}

func versionJSON() VersionJSON {
	v := VersionJSON{Version: buildVersion(), Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, API: "secretbroker.v1"}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				v.Commit = s.Value
			case "vcs.modified":
				v.Modified = s.Value == "true"
			}
		}
	}
	return v
}

func newVersionCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of this command",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := versionJSON()
			if output == "json" {
				return terminal.PrintJSON(cmd.OutOrStdout(), v)
			}
			commit := v.Commit
			switch {
			case commit == "":
				commit = "unknown"
			case v.Modified:
				commit += " (modified)"
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "Version:   %s\nCommit:    %s\nGo:        %s\nPlatform:  %s\nAPI:       %s\n",
				v.Version, commit, v.Go, v.Platform, v.API)
			return err
		},
	}
	terminal.RegisterOutput(cmd, &output, "table", "json")
	return cmd
}
