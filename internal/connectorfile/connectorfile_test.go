package connectorfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"
)

// parseOne parses a file that has one connector.
func parseOne(name string, data []byte) (Connector, error) {
	all, err := Parse(name, data)
	switch {
	case err != nil:
		return Connector{}, err
	case len(all) != 1:
		return Connector{}, fmt.Errorf("the file has %d connectors", len(all))
	}
	return all[0], nil
}

func TestParse(t *testing.T) {
	tests := []struct {
		name, text string
		connector  string
		want       map[string]string
		lines      map[string]int
		fault      string
		line       int
	}{
		{name: "flat", text: `{"name":"c","a":"x","n":1,"b":true}`, connector: "c", want: map[string]string{"name": "c", "a": "x", "n": "1", "b": "true"}},
		{
			name: "nested", text: "\n{\"name\":\"outer\",\n\"config\":\n  {\"name\":\"inner\",\r\n\"a\":\n\"x\",\"big\":\n12345678901234567890}}\n", connector: "outer",
			want:  map[string]string{"name": "inner", "a": "x", "big": "12345678901234567890"},
			lines: map[string]int{"name": 4, "a": 5, "big": 6},
		},
		{name: "nested without a name", text: `{"config":{"name":"inner"}}`, connector: "inner", want: map[string]string{"name": "inner"}},
		{name: "lines", text: "{\n\"a\":\"x\\ny\",\n\n \"b\" : 1, \"c\":2}", want: map[string]string{"a": "x\ny", "b": "1", "c": "2"}, lines: map[string]int{"a": 2, "b": 4, "c": 4}},
		{name: "empty object", text: `{}`, want: map[string]string{}},
		{name: "empty", text: ``, fault: "expected a JSON object", line: 1},
		{name: "list", text: `[]`, fault: "the list has no connector", line: 1},
		{name: "list of names", text: "[\n\"canary\"]", fault: "expected a list of connector configurations", line: 2},
		{name: "export without configurations", text: "{\n\"a\":{\"status\":{\"name\":\"canary\"}}}", fault: "expand=info", line: 2},
		{name: "trailing comma", text: "{\n\"a\":\"canary\",\n}", fault: "here or just before", line: 3},
		{name: "trailing comma after config", text: "{\"config\":{\n\"a\":\"canary\"\n},\n}", fault: "here or just before", line: 4},
		{name: "trailing comma in config", text: "{\n\"name\":\"x\",\n\"config\":{\n\"a\":\"canary\",\n}\n}", fault: "here or just before", line: 5},
		{name: "twice", text: "{\"a\":\"canary\",\n\"a\":\"y\"}", fault: `"a" occurs twice, first on line 1`, line: 2},
		{name: "twice in config", text: "{\n\"config\":\n{\"a\":\"canary\",\n\"a\":\"y\"}}", fault: `"a" occurs twice, first on line 3`, line: 4},
		{name: "trailing garbage", text: "{\"a\":\"canary\"}\n\n x", fault: "unexpected text after", line: 3},
		{name: "object as value", text: "{\n\"a\":{\"b\":\"canary\"}}", fault: `"a": expected text`, line: 2},
		{name: "null as value", text: `{"a":null}`, fault: `"a": expected text`, line: 1},
		{name: "object as name", text: `{"name":["canary"],"config":{}}`, fault: `"name": expected text`, line: 1},
		{name: "config that is no object", text: "{\n\"config\":\"canary\"}", fault: `under "config"`, line: 2},
		{name: "cut off", text: "{\n\"a\":\"canary", fault: "not valid JSON", line: 2},
		{name: "not UTF-8", text: "{\"a\":\"canary\xff\"}", fault: "not valid UTF-8"},
		{name: "too large", text: `{"a":"` + strings.Repeat("x", MaxSize) + `"}`, fault: "the maximum"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := parseOne("connector.json", []byte(tt.text))
			if tt.fault != "" {
				e, ok := errors.AsType[*Error](err)
				if !ok || !strings.Contains(e.Text, tt.fault) || strings.Contains(err.Error(), "canary") || e.Line != tt.line {
					t.Errorf("got %v, want %q on line %d", err, tt.fault, tt.line)
				}
				return
			}
			if err != nil || c.Name != tt.connector || !maps.Equal(c.Configs, tt.want) {
				t.Errorf("got %+v, %v", c, err)
			}
			if tt.lines != nil && !maps.Equal(c.Lines, tt.lines) {
				t.Errorf("lines are %v, want %v", c.Lines, tt.lines)
			}
		})
	}
}

// The extension determines the format of a file; without a known one, the text does.
func TestParseByName(t *testing.T) {
	const object, lines = ` {"a":"1"}`, `a=1`
	tests := []struct {
		file, text string
		ok         bool
	}{
		{"c.json", object, true},
		{"c.JSON", object, true},
		{"c.json", lines, false},
		{"c.properties", lines, true},
		{"dir.json/c.Properties", lines, true},
		{"c.properties", object, false},
		{"c", object, true},
		{"c.conf", lines, true},
		{"-", object, true},
		{"", lines, true},
	}
	for _, tt := range tests {
		c, err := parseOne(tt.file, []byte(tt.text))
		if (err == nil) != tt.ok || tt.ok && c.Configs["a"] != "1" {
			t.Errorf("%s with %s: got %+v, %v", tt.file, tt.text, c, err)
		}
	}
}

func TestLine(t *testing.T) {
	tests := []struct {
		text, config string
		want         int
	}{
		{"a=1\nsecret.manager.managed.configs=a,b\n", "a", 1},
		{"a=1\nsecret.manager.managed.configs=a,b\n", "b", 2},
		{"secret.manager=X\nsecret.manager.enabled=true\n", "secret.manager.managed.configs", 2},
		{"a=1\nsecret.manager=X\n", "secret.manager.enabled", 2},
		{"a=1\n", "b", 0},
	}
	for _, tt := range tests {
		c, err := parseOne("c.properties", []byte(tt.text))
		if err != nil || c.Line(tt.config) != tt.want {
			t.Errorf("%q: %s is on line %d, want %d; %v", tt.text, tt.config, c.Line(tt.config), tt.want, err)
		}
	}
}

func TestManaged(t *testing.T) {
	data, err := os.ReadFile("../../examples/sqlserver-cdc.json")
	if err != nil {
		t.Fatal(err)
	}
	c, err := parseOne("sqlserver-cdc.json", data)
	if err != nil {
		t.Fatal(err)
	}
	if c.Name != "SqlServerCdcSource1" || c.IntegrationID() != "cspi-sqlserver" {
		t.Errorf("got %q, %q", c.Name, c.IntegrationID())
	}
	want := []string{
		"database.password", "database.user", "secret.manager", "secret.manager.enabled", "secret.manager.managed.configs", "secret.manager.provider.integration.id",
	}
	got := c.Managed()
	if len(got) != len(want) {
		t.Errorf("sends %v", got)
	}
	for _, name := range want {
		if got[name] != c.Configs[name] || got[name] == "" {
			t.Errorf("%s is %q", name, got[name])
		}
	}
	plain := Connector{Configs: map[string]string{"a": "x"}}
	if got := plain.Managed(); len(got) > 0 {
		t.Errorf("without secret.manager properties: %v", got)
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{
		`{"name":"c","config":{"a":"x","n":1.5e3}}`, `{"a":"\ud800"}`, "{\"a\":1,}", "{\n\"config\":{\"a\":1}}\n}",
		`{"c":{"info":{"name":"c","config":{"a":"${secretbroker:i:r}"}}}}`, `[{"a":1},{"config":{}}]`,
	} {
		f.Add("x.json", []byte(text))
	}
	for _, text := range []string{strimzi, confluent, "a: 1\nb: 'x'\n", "- a: 1\n- a: 2\n", "a: &x 1\nb: *x\n", "a:\n  <<: {b: 1}\n"} {
		f.Add("x.yaml", []byte(text))
	}
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		all, err := Parse(name, data)
		if err != nil {
			if e, ok := errors.AsType[*Error](err); !ok || e.Line > 1+len(data) {
				t.Errorf("the error is %v", err)
			}
			return
		}
		if len(all) == 0 {
			t.Error("no connector and no error")
		}
		if strings.HasSuffix(strings.ToLower(name), ".json") && !json.Valid(data) {
			t.Error("accepted what is not JSON")
		}
		for _, c := range all {
			for name := range c.Managed() {
				if _, ok := c.Configs[name]; !ok {
					t.Errorf("sends %q, which is not in the configuration", name)
				}
			}
			for _, p := range c.Placeholders("secretbroker", "broker") {
				if p.Fault == "" && !strings.Contains(c.Configs[p.Property], p.Integration+":"+p.Reference+"}") {
					t.Errorf("%q has no placeholder of %q and %q", c.Configs[p.Property], p.Integration, p.Reference)
				}
			}
		}
	})
}

// A property whose name only begins like those of secret.manager does not count as one. The
// broker does not count it either.
func TestManagedIgnoresLookalikes(t *testing.T) {
	c := Connector{Configs: map[string]string{"secret.managers.note": "x", "secret.manager-old": "y", "database.password": "z"}}
	if got := c.Managed(); len(got) > 0 {
		t.Errorf("got %v", got)
	}
}
