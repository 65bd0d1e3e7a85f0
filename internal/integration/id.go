package integration

import "strings"

// maxIDLen is the maximum length of an id, in bytes.
const maxIDLen = 64

// IDRule is the rule of ValidID, for messages.
const IDRule = "1 to 64 lower-case letters, digits, dots, underscores and hyphens, which begin and end with a letter or digit and have no two dots in a row"

// ValidID reports whether id can be an integration's. An id is also a part of Kafka Connect's
// ${provider:path:key}, the name of a file on file systems that ignore case, and a segment
// of a URL's path; each of these excludes some characters.
func ValidID(id string) bool {
	if id == "" || len(id) > maxIDLen || !isAlphanumeric(id[0]) || !isAlphanumeric(id[len(id)-1]) {
		return false
	}
	for i := range len(id) {
		if c := id[i]; !isAlphanumeric(c) && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return !strings.Contains(id, "..")
}

func isAlphanumeric(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }
