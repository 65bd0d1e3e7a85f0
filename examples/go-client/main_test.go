package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestMistakesAreExplained(t *testing.T) {
	for want, args := range map[string][]string{
		"name=reference": {"https://v.vault.azure.net::n"},
		"ca.pem":         {"-dir", t.TempDir(), "p=https://v.vault.azure.net::n"},
	} {
		var out bytes.Buffer
		if err := run(t.Context(), args, &out); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: error %v, want one with %q", args, err, want)
		}
	}
}
