package strictyaml

import (
	"fmt"
	"strings"

	"github.com/secretbroker/secretbroker/internal/editdistance"
)

// unknownText returns an error text about name, which is not in known, with the setting that
// the author probably meant.
func unknownText(what, name string, known []string) string {
	if name == "<<" {
		return `merging ("<<") is not allowed; write the settings out`
	}
	if hint := nearest(name, known); hint != "" {
		return fmt.Sprintf("%s; did you mean %q?", what, hint)
	}
	return fmt.Sprintf("%s; known here: %s", what, strings.Join(known, ", "))
}

// quote quotes a name from the file, and shortens it to a usual length.
func quote(name string) string {
	const most = 64
	if len(name) > most {
		name = strings.ToValidUTF8(name[:most], "") + "..."
	}
	return fmt.Sprintf("%q", name)
}

// nearest returns the known name of which name is probably a misspelling: another spelling of
// its words, a prefix, or a few characters different.
func nearest(name string, known []string) string {
	const most = 64
	if len(name) > most {
		return ""
	}
	slips := 1
	if len(name) > 3 {
		slips = max(2, len(name)/3)
	}
	best, bestDistance := "", slips+1
	for _, k := range known {
		if strings.HasPrefix(k, strings.ToLower(name)+"_") {
			return k
		}
		if d := editdistance.Between(plain(name), plain(k)); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	return best
}

// plain removes the differences between maxBytes, max-bytes and max_bytes.
func plain(s string) string {
	return strings.NewReplacer("_", "", "-", "").Replace(strings.ToLower(s))
}
