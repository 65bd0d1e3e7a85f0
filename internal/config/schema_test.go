package config

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/strictyaml/schematest"
)

// structural matches the faults that the schema finds as well.
var structural = regexp.MustCompile(`unknown setting|missing; it is required|place of the integrations is missing|integrations are in one place|` +
	`expected (a section|a list|a table|a single value|a whole number|true or false|a duration|an amount|batch or none|cloud or region)|there is no (value|such kind)`)

func validator(t testing.TB) *schematest.Validator {
	t.Helper()
	schema, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	v, err := schematest.New(schema)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestSchema: the schema accepts the files of this repository, and refuses every faulty
// structure of the other tests.
func TestSchema(t *testing.T) {
	v := validator(t)
	var files []string
	for _, pattern := range []string{"testdata/*.yaml", "../../deploy/kubernetes/secretbroker.yaml"} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %v, %v", pattern, found, err)
		}
		files = append(files, found...)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := v.Validate(data); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	guide, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Validate(schematest.Blocks(guide)[0]); err != nil {
		t.Errorf("docs/configuration.md: %v", err)
	}
	refused := 0
	for _, tt := range faulty() {
		err := v.Validate([]byte(tt.data))
		switch {
		case !structural.MatchString(tt.want):
		case err == nil:
			t.Errorf("%s: accepted, but the broker reports %s\n%s", tt.name, tt.want, tt.data)
		default:
			refused++
		}
	}
	if refused < 30 {
		t.Errorf("only %d faulty files were refused", refused)
	}
}

// FuzzSchema: what the broker accepts, the schema accepts.
func FuzzSchema(f *testing.F) {
	v := validator(f)
	for _, name := range []string{"full.yaml", "minimal.yaml", "spiffe.yaml", "registry.yaml"} {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := Parse("b.yaml", data); err != nil {
			return
		}
		if err := v.Validate(data); err != nil && !strings.HasPrefix(err.Error(), "schematest: ") {
			t.Errorf("the broker accepts this file: %v\n%s", err, data)
		}
	})
}
