package devmode

import (
	"os"
	"path/filepath"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// LocalIntegrationID is the id of the sample integration with local files.
const LocalIntegrationID = "cspi-local"

const localSample = "# Read by the integration " + LocalIntegrationID + ". Yours to edit; put no real secrets here.\nuser=connect\npassword=localPassw0rdExamp1e\n"

// Local are the sample files of a local store.
type Local struct {
	// IntegrationFile and File are written once. The user may edit them.
	IntegrationFile, File string
	// Reference refers to the password in the sample.
	Reference string
}

// addLocal writes the files, unless references cannot name the folder.
func (env *Environment) addLocal(opts Options) error {
	dir, err := filepath.Abs(filepath.Join(env.Dir, "local"))
	if err != nil {
		return err
	}
	store, err := secret.ParseLocalStore("file://" + filepath.ToSlash(dir))
	if err != nil {
		opts.Logger.Warn("skipping the sample of local files: references cannot name this folder", "dir", dir)
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	l := &Local{
		IntegrationFile: filepath.Join(filepath.Dir(env.IntegrationFile), LocalIntegrationID+".yaml"),
		File:            filepath.Join(env.Dir, "local", "kafka.properties"),
		Reference:       store + "::kafka.properties::password",
	}
	env.Local = l
	if err := writeIfAbsent(l.File, []byte(localSample)); err != nil {
		return err
	}
	return writeTemplate(l.IntegrationFile, "local-integration.yaml", map[string]any{"ID": LocalIntegrationID}, writeIfAbsent)
}
