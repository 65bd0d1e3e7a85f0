package localfile

import (
	"github.com/secretbroker/secretbroker/internal/integration"
)

// Facts implements integration.Settings.
func (l *Settings) Facts() (f integration.Facts) {
	f.AddAll("LOCAL_DIRECTORY", "Directory", l.Directories)
	f.AddAll("LOCAL_ENVIRONMENT_VARIABLE", "Environment variable", l.Environment)
	f.Add("LOCAL_REQUIRED_PERMISSION", "To allow", "the broker's user must be able to read the files")
	return f
}
