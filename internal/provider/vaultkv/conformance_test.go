package vaultkv

import (
	"os"
	"testing"

	"github.com/secretbroker/secretbroker/internal/provider/providertest"
)

// exceptions are the cases of the suite that no Vault server can pass, with the
// reason.
func exceptions() map[string]string {
	return map[string]string{
		"binary":        "a KV secret is a JSON object",
		"empty":         "a KV secret is a JSON object",
		"expired":       "a version past its deletion time is a deleted one",
		"not yet valid": "KV secrets have no such date",
		"confusing":     "an answer does not say which secret it is; that of another version is refused, see TestWrongAnswers",
	}
}

func conformance() providertest.Harness {
	return providertest.Harness{Start: startFake, Biggest: 512 << 10, Exceptions: exceptions()}
}

func TestConformance(t *testing.T) { providertest.Run(t, conformance()) }

func BenchmarkFetch(b *testing.B) { providertest.Bench(b, conformance()) }

func osWrite(path, content string) error { return os.WriteFile(path, []byte(content), 0o600) }
