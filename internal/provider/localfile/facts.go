package localfile

import (
	"github.com/secretbroker/secretbroker/internal/integration"
)

// Facts implements integration.Settings.
func (l *Settings) Facts() (f integration.Facts) {
	f.AddAll("Directory", l.Directories)
	f.AddAll("Environment variable", l.Environment)
	f.Add("To allow", "the broker's user must be able to read the files")
	return f
}
