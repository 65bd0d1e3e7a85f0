// Package schematest validates YAML documents with JSON Schemas, in tests.
package schematest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"
)

// Validator validates documents with one schema.
type Validator struct{ schema *jsonschema.Schema }

// New compiles a schema.
func New(schema []byte) (*Validator, error) {
	parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		return nil, fmt.Errorf("schematest: %w", err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	if err := c.AddResource("schema.json", parsed); err != nil {
		return nil, fmt.Errorf("schematest: %w", err)
	}
	compiled, err := c.Compile("schema.json")
	if err != nil {
		return nil, fmt.Errorf("schematest: %w", err)
	}
	return &Validator{compiled}, nil
}

// Validate returns an error if the document is not YAML or does not conform to the schema.
func (v *Validator) Validate(document []byte) error {
	var content any
	if err := yaml.Unmarshal(document, &content); err != nil {
		return fmt.Errorf("schematest: %w", err)
	}
	data, err := json.Marshal(content)
	if err != nil {
		return fmt.Errorf("schematest: %w", err)
	}
	parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("schematest: %w", err)
	}
	return v.schema.Validate(parsed)
}

// yamlBlock matches the blocks of YAML in Markdown.
var yamlBlock = regexp.MustCompile("(?s)```yaml\n(.*?)```")

// Blocks returns the YAML documents in Markdown.
func Blocks(markdown []byte) [][]byte {
	var blocks [][]byte
	for _, m := range yamlBlock.FindAllSubmatch(markdown, -1) {
		blocks = append(blocks, m[1])
	}
	return blocks
}
