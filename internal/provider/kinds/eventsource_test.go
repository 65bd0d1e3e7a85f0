package kinds

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestReadEventSource: a file of events.sources has a queue, and neither grants nor roles.
// Another content of its credential file is another ReadRevision.
func TestReadEventSource(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("id", "AKIAIOSFODNN7EXAMPLE")
	write("key", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
	const head = `id: central
kind: AWS_SECRETS_MANAGER
aws:
  account_id: "123456789012"
  stores: ["https://secretsmanager.eu-west-1.amazonaws.com"]
  credential: {type: static, access_key_id_file: id, secret_access_key_file: key}
`
	const queue = "  events: {queue_url: https://sqs.eu-west-1.amazonaws.com/123456789012/secrets}\n"
	in, err := All().ReadEventSource(write("good.yaml", head+queue))
	if err != nil || in.ID != "central" || !strings.Contains(in.EventSource(), "sqs.eu-west-1.amazonaws.com") || in.ReadRevision == "" {
		t.Fatalf("%+v, %v", in, err)
	}
	write("key", "another/K7MDENG/bPxRfiCYEXAMPLEKEYxxxxxx")
	if other, err := All().ReadEventSource(filepath.Join(dir, "good.yaml")); err != nil || other.ReadRevision == in.ReadRevision {
		t.Errorf("%v", err)
	}
	for what, tt := range map[string][2]string{
		"grants":    {head + queue + "grants: [{principals: [\"dns:a.example.org\"]}]\n", "bad.yaml: grants: a file of events.sources is not an integration that can be used"},
		"roles":     {head + queue + "roles: {auditor: [\"dns:a.example.org\"]}\n", "bad.yaml: roles: a file of events.sources is not an integration that can be managed"},
		"no source": {head, "bad.yaml: aws.events: missing"},
		"invalid":   {head + queue + "extra: 1\n", "bad.yaml:8: unknown setting \"extra\""},
	} {
		if _, err := All().ReadEventSource(write("bad.yaml", tt[0])); err == nil || !strings.Contains(err.Error(), tt[1]) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := All().ReadEventSource(filepath.Join(dir, "absent.yaml")); err == nil {
		t.Error("a file that does not exist is accepted")
	}
}
