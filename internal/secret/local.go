package secret

import (
	"path"
	"strings"
)

const localExample = "file:///etc/connect/secrets::db.properties::password"

// LocalEnvironment is the store of the broker's environment variables.
const LocalEnvironment = "env"

const fileScheme = "file://"

const (
	maxLocalPath = 1024 // for a directory, and for a file's path below it, in bytes
	maxEnvName   = 255
)

// ParseLocalStore returns the canonical form of a local store: "file://" followed by
// the directory's absolute path without a trailing slash, or LocalEnvironment. The
// error is an *Error with ReasonInvalidReference that does not quote s.
func ParseLocalStore(s string) (string, error) {
	store, fault := "", checkText(s)
	if fault == "" {
		store, fault = localStore(s)
	}
	if fault != "" {
		return "", Errorf(ReasonInvalidReference, "not a local store: %s; expected file:///DIRECTORY or env", fault)
	}
	return store, nil
}

// localStore is ParseLocalStore for an s that has passed checkText. fault describes
// what is wrong with s, without quoting it.
func localStore(s string) (store, fault string) {
	if s == LocalEnvironment {
		return s, ""
	}
	dir, ok := strings.CutPrefix(s, fileScheme)
	if !ok {
		return "", "it is neither a file:// URL nor env"
	}
	if !strings.HasPrefix(dir, "/") {
		return "", "the directory's path is not absolute; it must begin with a third slash"
	}
	if len(dir) > 1 && dir[len(dir)-1] == '/' {
		dir = dir[:len(dir)-1]
		s = s[:len(s)-1]
	}
	if len(dir) > maxLocalPath || dir != path.Clean(dir) || !isFileText(dir) {
		return "", `the directory's path must be letters, digits and "-_.~@+=, ", without "//" and without "." or ".." segments`
	}
	return s, ""
}

func parseLocal(r *Ref) (fault string) {
	if r.Store, fault = localStore(r.Store); fault != "" {
		return fault
	}
	if r.Version != "" {
		return `files and environment variables have no versions; leave out the "#"`
	}
	if r.Store == LocalEnvironment {
		if !IsEnvName(r.Name) {
			return "the environment variable's name must consist of letters, digits and underscores, and must not begin with a digit"
		}
		return ""
	}
	if !isLocalFileName(r.Name) {
		return `the file's name must be a path below the directory, made of letters, digits and "-_.~@+=, ", and no segment may begin with ".."`
	}
	return ""
}

// isLocalFileName reports whether s can be a file's path below a directory. No
// segment may begin with "..": besides ".." itself, this excludes the directories
// in which Kubernetes keeps the versions of a volume ("..data"). Their files are
// also available under the names that the volume defines.
func isLocalFileName(s string) bool {
	if len(s) > maxLocalPath || !isFileText(s) {
		return false
	}
	for segment, more := "", true; more; {
		segment, s, more = strings.Cut(s, "/")
		if segment == "" || segment == "." || strings.HasPrefix(segment, "..") {
			return false
		}
	}
	return true
}

// IsEnvName reports whether s can be an environment variable in a reference.
func IsEnvName(s string) bool {
	for i := range len(s) { // faster than isText
		if !isAlpha(s[i]) && !isDigit(s[i]) && s[i] != '_' {
			return false
		}
	}
	return s != "" && len(s) <= maxEnvName && !isDigit(s[0])
}

func isFileText(s string) bool { return isText(s, pathPunctuation+"/ ") }

func isLocalNamePart(s string) bool {
	return len(s) <= maxLocalPath && !strings.HasPrefix(s, "/") && !strings.Contains(s, "//") && isFileText(s)
}
