package resolve_test

import (
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// TestUnprintableNames: names with control characters are refused. No record contains them,
// because escaping would make them several times as long.
func TestUnprintableNames(t *testing.T) {
	for _, bad := range []string{"a\x00", "\n", "a\x7fb", "\u0085", "\u2028", "a\xffb", strings.Repeat("\x01", resolve.MaxNameLen)} {
		for where, req := range map[string]resolve.Request{
			"a name":        {Configs: one(bad, vault+"::plain")},
			"the connector": {Connector: bad, Configs: one("p", vault+"::plain")},
			"the list": {Configs: map[string]string{
				"secret.manager": "AZURE_KEY_VAULT", "secret.manager.enabled": "true", "secret.manager.managed.configs": "p," + bad + "x", "p": vault + "::plain",
			}},
			"a property": {Configs: map[string]string{"secret.manager." + bad: "x"}},
		} {
			b := newBench(t)
			if _, err := b.call(worker, req); err == nil {
				t.Errorf("%q as %s: no error", bad, where)
			}
			for _, e := range b.events(t) {
				if strings.Contains(e.Config+e.Connector, bad) || e.Outcome == audit.Served {
					t.Errorf("%q as %s: recorded %+v", bad, where, e)
				}
				if where != "the list" && (e.Outcome != audit.Rejected || e.Reason != secret.ReasonInvalidRequest) {
					t.Errorf("%q as %s: recorded %+v", bad, where, e)
				}
			}
		}
	}
	// Letters of other languages are printable.
	b := newBench(t)
	if _, err := b.call(worker, resolve.Request{Connector: "Bestellungen für Größe 🔑", Configs: one("пароль", vault+"::plain")}); err != nil {
		t.Error(err)
	}
}

func one(name, ref string) map[string]string { return map[string]string{name: ref} }
