package connectorfile

import (
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"
)

const managed = `{
  "name": "orders",
  "config": {
    "z": 1.50,
    "secret.manager.enabled": "true",
    "secret.manager": "AZURE_KEY_VAULT",
    "database.password": "https://v.vault.azure.net::s::<k>",
    "secret.manager.managed.configs": "database.password, database.user",
    "secret.manager.provider.integration.id": "cspi",
    "a": true,
    "database.user": "https://v.vault.azure.net::u"
  },
  "tasks": []
}`

func accept(string) error { return nil }

func azure(string) (string, error) { return "AZURE_KEY_VAULT", nil }

func TestConvert(t *testing.T) {
	out, changed, err := ToPlaceholders([]byte(managed), "secretbroker", false, accept)
	const want = `{
  "name": "orders",
  "config": {
    "z": 1.50,
    "database.password": "${secretbroker:cspi:https://v.vault.azure.net::s::<k>}",
    "a": true,
    "database.user": "${secretbroker:cspi:https://v.vault.azure.net::u}"
  },
  "tasks": []
}
`
	if err != nil || !changed || string(out) != want {
		t.Fatalf("%v, %v\n%s", changed, err, out)
	}
	back, changed, err := ToManaged(out, []string{"secretbroker"}, azure)
	if err != nil || !changed {
		t.Fatal(changed, err)
	}
	before, _ := parseOne("x.json", []byte(managed))
	after, err := parseOne("x.json", back)
	before.Configs[managerConfigs] = "database.password,database.user"
	if err != nil || !maps.Equal(before.Configs, after.Configs) {
		t.Errorf("%v\n%s", err, back)
	}
}

// TestConvertWithLabel: the placeholders name the connector, and the way back removes it.
func TestConvertWithLabel(t *testing.T) {
	text := strings.Replace(managed, `"orders"`, `"orders/sink: 1}"`, 1)
	out, changed, err := ToPlaceholders([]byte(text), "broker", true, accept)
	if err != nil || !changed || !strings.Contains(string(out), "${broker:cspi/orders%2Fsink%3A%201%7D:https://v.vault.azure.net::u}") {
		t.Fatalf("%v, %v\n%s", changed, err, out)
	}
	if back, changed, err := ToManaged(out, []string{"broker"}, azure); err != nil || !changed || !strings.Contains(string(back), `"secret.manager.provider.integration.id": "cspi"`) {
		t.Errorf("%v, %v\n%s", changed, err, back)
	}
	for _, name := range []string{"", `a\nb`, strings.Repeat("x", 257)} {
		if _, _, err := ToPlaceholders([]byte(strings.Replace(managed, `"orders"`, `"`+name+`"`, 1)), "broker", true, accept); err == nil || !strings.Contains(err.Error(), "cannot name the connector") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// convert-bool: a boolean and other spellings of true must not leave the reference behind
// as the literal password.
func TestConvertEnabled(t *testing.T) {
	for _, enabled := range []string{`true`, `"TRUE"`, `"True"`} {
		out, changed, err := ToPlaceholders([]byte(strings.Replace(managed, `"true"`, enabled, 1)), "broker", false, accept)
		if err != nil || !changed || !strings.Contains(string(out), "${broker:cspi:https://v.vault.azure.net::u}") || strings.Contains(string(out), "secret.manager") {
			t.Errorf("%s: %v, %v\n%s", enabled, changed, err, out)
		}
	}
	out, changed, err := ToPlaceholders([]byte(strings.Replace(managed, `"true"`, "false", 1)), "broker", false, accept)
	if err != nil || !changed || strings.Contains(string(out), "${") || strings.Contains(string(out), "secret.manager") || !json.Valid(out) {
		t.Errorf("false: %v, %v\n%s", changed, err, out)
	}
}

func TestConvertRefuses(t *testing.T) {
	replace := func(old, new string) string {
		if !strings.Contains(managed, old) {
			t.Fatalf("the sample has no %s", old)
		}
		return strings.Replace(managed, old, new, 1)
	}
	for name, tt := range map[string]struct {
		text, fault string
		line        int
	}{
		"convert-brace":       {replace("<k>", "canary}k"), `contains "}"`, 7},
		"neither":             {replace(`"true"`, `"yes"`), "must be true or false", 5},
		"no enabled":          {replace(`"secret.manager.enabled": "true",`, ""), "must be true or false", 8},
		"no integration":      {replace("provider.integration.id", "x"), "provider.integration.id is missing", 8},
		"absent":              {replace(", database.user", ", absent"), `lists "absent"`, 8},
		"twice":               {replace(", database.user", ", database.password"), "twice", 7},
		"empty element":       {replace(", database.user", ","), "empty element", 8},
		"own property":        {replace(", database.user", ", secret.manager"), "own properties", 6},
		"several connectors":  {"[" + managed + "]", "one connector", 1},
		"expand":              {`{"a":{"info":{"config":{}}}}`, "one connector", 1},
		"not JSON":            {managed + "x", "unexpected text", 14},
		"not a reference":     {replace("https://v.vault.azure.net::u", "canary"), "not a reference: it is odd", 11},
		"a list as a value":   {replace("1.50", "[]"), "expected text", 4},
		"properties, no JSON": {"a=1", "expected a JSON object", 1},
	} {
		_, _, err := ToPlaceholders([]byte(tt.text), "broker", false, func(s string) error {
			if s == "canary" {
				return errors.New("it is odd")
			}
			return nil
		})
		e, ok := errors.AsType[*Error](err)
		if !ok || !strings.Contains(e.Text, tt.fault) || e.Line != tt.line || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: got %v, want %q on line %d", name, err, tt.fault, tt.line)
		}
	}
}

func TestConvertBackRefuses(t *testing.T) {
	kindOf := func(s string) (string, error) {
		if s == "bad" {
			return "", errors.New("it is odd")
		}
		return s[:1], nil
	}
	for name, tt := range map[string]struct{ text, fault string }{
		"inside":        {`{"a":"x${broker:i:r}"}`, "text beside"},
		"two":           {`{"a":"${broker:i:r}${broker:i:r}"}`, "text beside"},
		"integrations":  {`{"a":"${broker:i:r}","b":"${broker:j:r}"}`, "another integration"},
		"kinds":         {`{"a":"${broker:i:r}","b":"${broker:i:s}"}`, "another kind"},
		"fault":         {`{"a":"${broker:r}"}`, "names no integration"},
		"bad reference": {`{"a":"${broker:i:bad}"}`, "it is odd"},
		"name":          {`{"a,b":"${broker:i:r}"}`, "cannot be in the list"},
		"both":          {`{"a":"${broker:i:r}","secret.manager.enabled":"false"}`, "already"},
	} {
		_, _, err := ToManaged([]byte(tt.text), []string{"broker"}, kindOf)
		if e, ok := errors.AsType[*Error](err); !ok || !strings.Contains(e.Text, tt.fault) {
			t.Errorf("%s: got %v, want %q", name, err, tt.fault)
		}
	}
}

func TestNothingToConvert(t *testing.T) {
	const text = `{"a": "${file:/x:y}"}`
	out, changed, err := ToPlaceholders([]byte(text), "broker", false, accept)
	if string(out) != text || changed || err != nil {
		t.Errorf("%s %v %v", out, changed, err)
	}
	out, changed, err = ToManaged([]byte(text), []string{"broker"}, azure)
	if string(out) != text || changed || err != nil {
		t.Errorf("%s %v %v", out, changed, err)
	}
}
