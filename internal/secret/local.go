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
	store, fault := localStore(s)
	if fault != "" {
		return "", Errorf(ReasonInvalidReference, "not a local store: %s; expected file:///DIRECTORY or env", fault)
	}
	return store, nil
}

func localStore(s string) (store, fault string) {
	if fault := checkText(s); fault != "" {
		return "", fault
	}
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
	if len(dir) > 1 {
		dir = strings.TrimSuffix(dir, "/")
	}
	if len(dir) > maxLocalPath || dir != path.Clean(dir) || !isFileText(dir) {
		return "", `the directory's path must be letters, digits and "-_.~@+=, ", and without "." and ".." segments and doubled slashes`
	}
	return fileScheme + dir, ""
}

func parseLocal(store, name, version string) (ref Ref, fault string) {
	canonical, fault := localStore(store)
	if fault != "" {
		return Ref{}, fault
	}
	if version != "" {
		return Ref{}, `files and environment variables have no versions; leave out the "#"`
	}
	if canonical == LocalEnvironment {
		if !isEnvName(name) {
			return Ref{}, "the environment variable's name must be letters, digits and underscores, not a digit first"
		}
		return Ref{Kind: KindLocalFile, Store: canonical, Name: name}, ""
	}
	if !isLocalFileName(name) {
		return Ref{}, `the file's name must be a path below the directory, of letters, digits and "-_.~@+=, ", without segments that begin with ".."`
	}
	return Ref{Kind: KindLocalFile, Store: canonical, Name: name}, ""
}

// isLocalFileName holds the rule for paths below a directory. Names that begin
// with ".." are how Kubernetes keeps the versions of a volume; what is there is
// reached by its proper name.
func isLocalFileName(s string) bool {
	if len(s) > maxLocalPath {
		return false
	}
	for segment := range strings.SplitSeq(s, "/") {
		if segment == "" || segment == "." || strings.HasPrefix(segment, "..") {
			return false
		}
	}
	return isFileText(s)
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
