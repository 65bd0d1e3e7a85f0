package integration

import (
	"strings"
	"testing"
)

func TestValidID(t *testing.T) {
	for id, want := range map[string]bool{
		"a": true, "7": true, "cspi-sqlserver": true, "dlz_4.eu-west-1": true, "a.b.c": true, "a-._-b": true,
		strings.Repeat("a", 64): true,
		"":                      false, strings.Repeat("a", 65): false,
		".": false, "..": false, ".a": false, "a.": false, "-a": false, "a-": false, "_a": false, "a_": false,
		"a..b": false, "a...b": false,
		"Prod": false, "prod-EU": false, "a/b": false, "a:b": false, "a b": false, "a\n": false, "a\x00b": false, "ä": false, "a{b": false,
	} {
		if ValidID(id) != want {
			t.Errorf("ValidID(%q) = %t", id, !want)
		}
	}
}

// Every Resolve checks an id.
func TestValidIDAllocates(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { ValidID("cspi-sqlserver.europe-1") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
