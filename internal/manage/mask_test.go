package manage

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/secret"
)

func maskDocument(t *testing.T, settings map[string]any) *Document {
	t.Helper()
	f := &Document{ID: "i", Kind: secret.KindAzureKeyVault}
	f.Bind(kinds.All())
	if err := f.SetSettings(settings); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestApplyMask(t *testing.T) {
	before := maskDocument(t, map[string]any{"a": "1", "b": map[string]any{"c": "2", "d": "3"}})
	before.DisplayName = "name"
	before.Cache.SetTTL(time.Minute)
	before.Grants = []Grant{{Principals: []string{"dns:a"}}}
	wanted := maskDocument(t, map[string]any{"a": "9", "b": map[string]any{"c": "8"}, "e": "7"})
	wanted.Cache.SetMaxStale(time.Hour)
	wanted.Reads.PerSecond = 5
	wanted.Roles.Auditor = []string{"dns:b"}
	for _, tt := range []struct {
		mask string
		want string // the settings that differ afterwards, or "!" and the beginning of an error
	}{
		{"*", "azure.a azure.b.c azure.b.d azure.e cache.max_stale cache.ttl display_name grants reads.per_second roles.auditor"},
		{"", "azure.a azure.b.c azure.b.d azure.e cache.max_stale cache.ttl reads.per_second roles.auditor"},
		{"display_name", "display_name"},
		{"settings", "azure.a azure.b.c azure.b.d azure.e"},
		{"settings.a", "azure.a"},
		{"settings.b", "azure.b.c azure.b.d"},
		{"settings.b.c", "azure.b.c"},
		{"settings.b.d", "azure.b.d"}, // taken out: it is not set in what is wanted
		{"settings.e settings.x", "azure.e"},
		{"cache.ttl", "cache.ttl"},
		{"cache.max_stale reads", "cache.max_stale reads.per_second"},
		{"grants roles", "grants roles.auditor"},
		{"placement", ""},
		{"settings.a.b", "!update_mask: \"settings.a.b\": a is not a section"},
		{"settings..a", "!update_mask: \"settings..a\": expected names"},
		{"id", "!update_mask: id cannot be changed"},
		{"etag", "!update_mask: \"etag\" is unknown"},
		{"* cache", "!update_mask: \"*\" is unknown"},
	} {
		was := before.Tree()
		after, err := applyMask(before, wanted, strings.Fields(tt.mask))
		if err != nil {
			if want, ok := strings.CutPrefix(tt.want, "!"); !ok || !strings.HasPrefix(secret.AsError(err).Message, want) {
				t.Errorf("%q: %v", tt.mask, err)
			}
			continue
		}
		if got := strings.Join(integration.SettingNames(integration.Diff(before, after)), " "); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.mask, got, tt.want)
		}
		if diff := cmp.Diff(was, before.Tree()); diff != "" {
			t.Errorf("%q: what was there has changed: %s", tt.mask, diff)
		}
	}
}
