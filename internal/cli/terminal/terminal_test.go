package terminal

import (
	"bytes"
	"strings"
	"testing"
)

func TestConfirm(t *testing.T) {
	for answer, ok := range map[string]bool{"y\n": true, "YES\n": true, " yes \n": true, "y": true, "n\n": false, "\n": false, "": false, "yellow\n": false} {
		var out bytes.Buffer
		if err := confirm(&out, strings.NewReader(answer), "Delete x?"); (err == nil) != ok || !strings.HasPrefix(out.String(), "Delete x? [y/N] ") {
			t.Errorf("%q: %v, %q", answer, err, out.String())
		}
	}
}
