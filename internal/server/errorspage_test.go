package server

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestClientReasonsOnErrorsPage: docs/errors.md lists the reasons that the Go client, the
// command and the provider for Kafka Connect define, and no others. None of them is one of
// the broker's.
func TestClientReasonsOnErrorsPage(t *testing.T) {
	read := func(file, pattern string) (found []string) {
		t.Helper()
		data, err := os.ReadFile("../../" + file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(data), -1) {
			found = append(found, m[1])
		}
		if len(found) == 0 {
			t.Fatalf("no reasons in %s", file)
		}
		return found
	}
	want := slices.Concat(
		read("client/errors.go", `Reason\w+ +Reason = "([A-Z_]+)"`),
		read("internal/cli/check.go", `(?m)^\t(?:warn|Warn|fault|Fault)\w+ += "([A-Z_]+)"`),
		read("kafka-connect/provider/src/main/java/io/github/secretbroker/connect/BrokerException.java", `static final String \w+ = "([A-Z_]+)"`),
	)
	slices.Sort(want)
	want = slices.Compact(want)
	page, err := os.ReadFile("../../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "## Reasons that only clients give")
	var got []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Z_]+)`").FindAllStringSubmatch(section, -1) {
		got = append(got, m[1])
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("the page has %q, the sources %q", got, want)
	}
	for _, row := range statusTable {
		if slices.Contains(want, string(row.reason)) {
			t.Errorf("%s is a reason of the broker and of a client", row.reason)
		}
	}
}
