package kinds

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/secretbroker/secretbroker/internal/strictyaml/schematest"
)

// structural matches the faults that the schema finds as well.
var structural = regexp.MustCompile(`(?m)unknown setting|^\d+: [a-z]+: missing|kind: expected|does not belong to the kind|expected secretbroker/v1|` +
	`expected (a section|a list|a table|a single value|a whole number|true or false|a duration|an amount)|there is no (value|such kind)|an empty list`)

func validator(t testing.TB) *schematest.Validator {
	t.Helper()
	schema, err := All().Schema()
	if err != nil {
		t.Fatal(err)
	}
	v, err := schematest.New(schema)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestSchema: the schema accepts the integrations in the files and documents of this
// repository, and refuses every faulty structure of TestParseFaults.
func TestSchema(t *testing.T) {
	v := validator(t)
	documents := make(map[string][][]byte)
	for _, pattern := range []string{"testdata/*.yaml", "../../../deploy/kubernetes/cspi-*.yaml", "../../../docs/*.md", "../../../docs/integrations/*.md", "../../../docs/migrate/*.md"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v, %v", pattern, files, err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if filepath.Ext(file) == ".md" {
				documents[file] = slices.DeleteFunc(schematest.Blocks(data), func(b []byte) bool {
					return !regexp.MustCompile(`(?m)^id:`).Match(b) || !regexp.MustCompile(`(?m)^kind:`).Match(b)
				})
			} else {
				documents[file] = [][]byte{data}
			}
		}
	}
	accepted := 0
	for file, all := range documents {
		for _, data := range all {
			accepted++
			if err := v.Validate(data); err != nil {
				t.Errorf("%s: %v\n%s", file, err, bytes.SplitAfterN(data, []byte("\n"), 3)[0])
			}
		}
	}
	if accepted < 5 {
		t.Errorf("only %d integrations were found", accepted)
	}
	refused := 0
	for _, tt := range parseFaults() {
		if !structural.MatchString(tt.want) {
			continue
		}
		refused++
		if v.Validate([]byte(tt.data)) == nil {
			t.Errorf("%s: accepted, but the broker reports %s\n%s", tt.name, tt.want, tt.data)
		}
	}
	if refused < 12 {
		t.Errorf("only %d faulty files were refused", refused)
	}
}
