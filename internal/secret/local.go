package secret

import (
	"path"
	"strings"
)

const localExample = "file:///etc/connect/secrets::db.properties::password"

// LocalEnvironment is the store of a LOCAL_FILE integration's environment
// variables.
const LocalEnvironment = "env"

const fileScheme = "file://"

const (
	maxLocalPath = 1024 // of a directory, and of a file within, in bytes
	maxEnvName   = 255
)

// ParseLocalStore returns the canonical form of a local store: "file://" and the
// directory's absolute path without a trailing slash, or LocalEnvironment. The
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

// localStore does the work of ParseLocalStore for s that has passed checkText;
// fault says what is wrong with s, without quoting it.
func localStore(s string) (store, fault string) {
	if s == LocalEnvironment {
		return s, ""
	}
	dir, ok := strings.CutPrefix(s, fileScheme)
	if !ok {
		return "", "it is neither file:// and a directory nor env"
	}
	if !strings.HasPrefix(dir, "/") {
		return "", "the directory is not absolute: a path begins with a third slash"
	}
	if len(dir) > 1 && dir[len(dir)-1] == '/' {
		dir = dir[:len(dir)-1]
		s = s[:len(s)-1]
	}
	if len(dir) > maxLocalPath || dir != path.Clean(dir) || !isFileText(dir) {
		return "", `the directory's path must be letters, digits and "-_.~@+=, ", and without "." and ".." segments and doubled slashes`
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
		if !isEnvName(r.Name) {
			return "the environment variable's name must be letters, digits and underscores, not a digit first"
		}
		return ""
	}
	if !isLocalFileName(r.Name) {
		return `the file's name must be a path below the directory, of letters, digits and "-_.~@+=, ", without segments that begin with ".."`
	}
	return ""
}

// isLocalFileName holds the rule for paths below a directory. Names that begin
// with ".." are how Kubernetes keeps the versions of a volume; what is there is
// reached by its proper name.
func isLocalFileName(s string) bool {
	if len(s) > maxLocalPath {
		return false
	}
	if !isFileText(s) {
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

func isEnvName(s string) bool {
	if s == "" || len(s) > maxEnvName || isDigit(s[0]) {
		return false
	}
	for i := range len(s) {
		if !isAlpha(s[i]) && !isDigit(s[i]) && s[i] != '_' {
			return false
		}
	}
	return true
}

// IsEnvName reports whether s can be an environment variable in a reference.
func IsEnvName(s string) bool { return isEnvName(s) }

func isFileText(s string) bool { return isText(s, pathPunctuation+"/ ") }

func isLocalNamePart(s string) bool {
	return len(s) <= maxLocalPath && !strings.HasPrefix(s, "/") && !strings.Contains(s, "//") && isFileText(s)
}
