package connectorfile

import (
	"encoding/json"
	"maps"
	"os"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	tests := []struct {
		name, text string
		connector  string
		want       map[string]string
		fault      string
	}{
		{name: "flat", text: `{"name":"c","a":"x","n":1,"b":true}`, connector: "c", want: map[string]string{"name": "c", "a": "x", "n": "1", "b": "true"}},
		{name: "nested", text: `{"name":"outer","config":{"name":"inner","a":"x","big":12345678901234567890}}`, connector: "outer", want: map[string]string{"name": "inner", "a": "x", "big": "12345678901234567890"}},
		{name: "nested without a name", text: `{"config":{"name":"inner"}}`, connector: "inner", want: map[string]string{"name": "inner"}},
		{name: "empty object", text: `{}`, want: map[string]string{}},
		{name: "empty", text: ``, fault: "expected a JSON object"},
		{name: "list", text: `[]`, fault: "expected a JSON object"},
		{name: "trailing comma", text: "{\n\"a\":\"canary\",\n}", fault: "line"},
		{name: "twice", text: `{"a":"canary","a":"y"}`, fault: `"a" stands twice`},
		{name: "trailing garbage", text: `{"a":"canary"} x`, fault: "more after"},
		{name: "object as value", text: `{"a":{"b":"canary"}}`, fault: `"a": expected text`},
		{name: "null as value", text: `{"a":null}`, fault: `"a": expected text`},
		{name: "config that is no object", text: `{"config":"canary"}`, fault: `under "config"`},
		{name: "cut off", text: `{"a":"canary`, fault: "not valid JSON"},
		{name: "too large", text: `{"a":"` + strings.Repeat("x", maxSize) + `"}`, fault: "the most is"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Parse([]byte(tt.text))
			if tt.fault != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fault) || strings.Contains(err.Error(), "canary") {
					t.Errorf("got %v, want %q", err, tt.fault)
				}
				return
			}
			if err != nil || c.Name != tt.connector || !maps.Equal(c.Configs, tt.want) {
				t.Errorf("got %+v, %v", c, err)
			}
		})
	}
}

func TestMinimal(t *testing.T) {
	data, err := os.ReadFile("../../examples/sqlserver-cdc.json")
	if err != nil {
		t.Fatal(err)
	}
	c, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	if c.Name != "SqlServerCdcSource1" || c.IntegrationID() != "cspi-sqlserver" {
		t.Errorf("got %q, %q", c.Name, c.IntegrationID())
	}
	want := []string{
		"database.password", "database.user", "secret.manager", "secret.manager.enabled", "secret.manager.managed.configs", "secret.manager.provider.integration.id",
	}
	got := c.Minimal()
	if len(got) != len(want) {
		t.Errorf("sends %v", got)
	}
	for _, name := range want {
		if got[name] != c.Configs[name] || got[name] == "" {
			t.Errorf("%s is %q", name, got[name])
		}
	}
	plain := Connector{Configs: map[string]string{"a": "x"}}
	if !maps.Equal(plain.Minimal(), plain.Configs) {
		t.Error("a plain map is not sent whole")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"name":"c","config":{"a":"x","n":1.5e3}}`))
	f.Add([]byte(`{"a":"\ud800"}`))
	f.Add([]byte("{\"a\":1,}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse(data)
		if err != nil {
			return
		}
		if !json.Valid(data) {
			t.Error("accepted what is not JSON")
		}
		for name := range c.Minimal() {
			if _, ok := c.Configs[name]; !ok {
				t.Errorf("sends %q, which is not in the configuration", name)
			}
		}
	})
}
