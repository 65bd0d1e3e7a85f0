package app

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/secretbroker/secretbroker/internal/config"
	"github.com/secretbroker/secretbroker/internal/denial"
	"github.com/secretbroker/secretbroker/internal/placement"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/registry/dirstore"
	"github.com/secretbroker/secretbroker/internal/registry/seal"
	"github.com/secretbroker/secretbroker/internal/trust"
)

func newValidateCommand() *cobra.Command {
	var configFile string
	cmd := &cobra.Command{
		Use:   "validate --config secretbroker.yaml",
		Short: "Check a configuration and its integrations without running them",
		Long: `Check secretbroker.yaml, the certificates, keys and CRLs that it names, whether the
user who runs the command can write the audit log, and every integration, and report
all errors with their lines. The command contacts no other system and starts nothing.

Exit codes: 0 everything is valid; 2 there are errors.`,
		Example: "  secretbroker validate --config /etc/secretbroker/secretbroker.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, err := config.Inspect(configFile)
			if err != nil {
				return &exitError{Code: exitUsage, Err: err}
			}
			checkFiles(file)
			integrations, faults := checkIntegrations(file)
			if file.Sound("events") {
				_, err := centralSources(file.Events.Sources, kinds.EventOpeners(provider.Config{}))
				faults = append(faults, err)
			}
			if err := errors.Join(append([]error{file.Err()}, faults...)...); err != nil {
				return &exitError{Code: exitUsage, Err: err}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: valid, %s\n", configFile, integrations)
			return nil
		},
	}
	cmd.Flags().StringVar(&configFile, "config", "", "the broker's configuration file (required)")
	_ = cmd.MarkFlagRequired("config") // the flag exists
	_ = cmd.MarkFlagFilename("config", "yaml", "yml")
	return cmd
}

// checkFiles adds the faults of the files that the settings name.
func checkFiles(file *config.File) {
	if file.SPIFFE.Socket == "" {
		for _, p := range trust.CheckFiles(tlsFiles(file.TLS, nil)) {
			file.Fault("tls."+p.Setting, p.Text)
		}
	}
	if path := file.Denials.File; path != "" {
		if err := denial.CheckFile(path); err != nil {
			file.Fault("denials.file", err.Error())
		}
	}
	if file.Audit.File != "" && file.Audit.File != config.AuditStdout {
		if text := unwritable(file.Audit.File); text != "" {
			file.Fault("audit.file", text)
		}
	}
	if file.Sound("audit") {
		_, err := auditConfig(file.Audit, nil)
		fault(file, "audit", err)
	}
	if file.Sound("tracing") {
		_, err := tracingConfig(file.Tracing, nil)
		fault(file, "tracing", err)
	}
	if path := file.Registry.Seal.KeyFile; path != "" {
		if _, err := seal.Open(path); err != nil {
			file.Fault("registry.seal.key_file", err.Error())
		}
	}
}

// fault adds an error whose text may begin with the setting of the section that it is about.
func fault(file *config.File, section string, err error) {
	if err == nil {
		return
	}
	setting, text := section, err.Error()
	if first, rest, ok := strings.Cut(text, ": "); ok && strings.HasPrefix(first, section+".") && !strings.Contains(first, " ") {
		setting, text = first, rest
	}
	file.Fault(setting, text)
}

// unwritable returns why the broker cannot append to a file, or "".
func unwritable(path string) string {
	dir := filepath.Dir(path)
	switch info, err := os.Stat(dir); {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Sprintf("the directory %s does not exist; create it, writable for the broker's user", dir)
	case err != nil:
		return err.Error()
	case !info.IsDir():
		return fmt.Sprintf("%s is not a directory", dir)
	}
	what, mode := path, uint32(writeAccess)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		what, mode = dir, writeAccess|searchAccess
	}
	if err := access(what, mode); err != nil {
		return fmt.Sprintf("%s is not writable for this user: %v", what, err)
	}
	return ""
}

// checkIntegrations returns what was checked, for a person, and the faults.
func checkIntegrations(file *config.File) (checked string, faults []error) {
	dir := file.Registry.Directory.Path
	if dir == "" {
		return "with the integrations in a database, which was not checked", nil
	}
	good, bad := dirstore.Validate(kinds.All(), dir)
	if len(bad) > 0 {
		faults = append(faults, bad)
	}
	if file.Sound("placement") {
		places, err := placement.New(file.Placement.Rules())
		if err != nil {
			file.Fault("placement", err.Error())
			return "", faults
		}
		for _, text := range places.Violations(good) {
			faults = append(faults, errors.New(text))
		}
	}
	return fmt.Sprintf("with %d integration(s)", len(good)), faults
}
