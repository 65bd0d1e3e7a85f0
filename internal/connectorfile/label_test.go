package connectorfile

import (
	"strings"
	"testing"
)

// FuzzLabel: what ToPlaceholders writes for a connector's name is read as the same name, and
// whatever is accepted is a name that the broker accepts.
func FuzzLabel(f *testing.F) {
	for _, s := range []string{"orders", "orders-sink.1", "a b", "a/b:c}d%e", "\u00e4\u2028", "%41", "%zz", "a\xff", "\x00", strings.Repeat("x", 300), "${x:y}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if name, fault := decodeLabel(s); fault == "" {
			if name == "" || len(name) > maxConnector || strings.ToValidUTF8(name, "") != name || strings.ContainsAny(name, "\x00\n\r\u2028\u2029\u0085\u007f") {
				t.Errorf("%q is decoded as %q", s, name)
			}
		}
		label, ok := encodeLabel(s)
		if !ok {
			return
		}
		got := Connector{Configs: map[string]string{"p": "${broker:cspi/" + label + ":ref}"}}.Placeholders("broker")
		if len(got) != 1 || got[0].Fault != "" || got[0].Connector != s || got[0].Integration != "cspi" || got[0].Reference != "ref" || !got[0].Whole {
			t.Errorf("%q is written as %q and read as %+v", s, label, got)
		}
	})
}
