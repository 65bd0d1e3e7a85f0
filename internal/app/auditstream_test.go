package app

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit/logread"
	"github.com/secretbroker/secretbroker/internal/devmode"
)

// streamOf runs a broker that writes its audit log to standard output, lets it answer calls,
// stops it and returns the lines of its standard output and of its log.
func streamOf(t *testing.T, env *devmode.Environment, calls int) (records, messages []string) {
	t.Helper()
	s := startServed(t, env, env.ConfigFile)
	c := s.client(t, 1)
	for range calls {
		if _, err := c.Resolve(t.Context(), sample); err != nil {
			t.Fatal(err)
		}
	}
	s.signal(t, syscall.SIGTERM)
	<-s.exited
	lines := func(text string) []string { return strings.Split(strings.TrimSpace(text), "\n") }
	return lines(s.out.String()), lines(s.log.String())
}

// mixed returns log messages and records in one stream.
func mixed(records, messages []string) []string {
	var all []string
	for i, r := range records {
		if i < len(messages) {
			all = append(all, messages[i])
		}
		all = append(all, r)
	}
	return append(all, messages[min(len(messages), len(records)):]...)
}

// prefixed returns the lines with a prefix.
func prefixed(prefix string, lines []string) []string {
	out := make([]string, len(lines))
	for i, l := range lines {
		out[i] = prefix + l
	}
	return out
}

// cri returns the lines as a container runtime writes them. It splits records.
func cri(lines []string) (out []string) {
	const at = "2027-01-10T12:00:00.123456789Z "
	for _, l := range lines {
		stream := "stderr "
		if strings.HasPrefix(l, `{"v":1,`) {
			stream = "stdout "
			out = append(out, at+stream+"P "+l[:100])
			l = l[100:]
		}
		out = append(out, at+stream+"F "+l)
	}
	return out
}

// interleaved returns two streams as a collector merges them.
func interleaved(a, b []string) (out []string) {
	for i := range max(len(a), len(b)) {
		out = append(out, a[min(i, len(a)):min(i+1, len(a))]...)
		out = append(out, b[min(i, len(b)):min(i+1, len(b))]...)
	}
	return out
}

// TestChainInStreams verifies streams that the real program has written, as kubectl logs,
// the files of a container runtime and collectors have them.
func TestChainInStreams(t *testing.T) {
	env := newEnvironment(t)
	if err := edit(env.ConfigFile, "file: audit.jsonl", "file: stdout"); err != nil {
		t.Fatal(err)
	}
	// Two runs: a restart of a container, or another replica.
	first, log1 := streamOf(t, env, 5)
	second, log2 := streamOf(t, env, 3)
	if len(first) != 6 || len(second) != 4 || len(log1) < 2 {
		t.Fatalf("%d and %d records, %d log messages", len(first), len(second), len(log1))
	}
	one, two := mixed(first, log1), mixed(second, log2)
	without := func(lines []string, i int) []string { return slices.Delete(slices.Clone(lines), i, i+1) }
	changed := slices.Clone(first)
	changed[3] = strings.Replace(changed[3], `"outcome":"served"`, `"outcome":"denied"`, 1)
	swapped := slices.Clone(first)
	swapped[2], swapped[3] = swapped[3], swapped[2]
	forged := strings.Replace(first[3], `"outcome":"served"`, `"outcome":"denied"`, 1)
	for name, tt := range map[string]struct {
		lines []string
		kind  logread.BreakKind // "" for intact
		want  string            // in the output
	}{
		"with the log":                {one, "", "intact: 6 record(s) of 1 run(s)"},
		"a restart":                   {slices.Concat(one, two), "", "intact: 10 record(s) of 2 run(s)"},
		"two replicas":                {interleaved(one, two), "", "intact: 10 record(s) of 2 run(s)"},
		"kubectl logs --prefix":       {interleaved(prefixed("[pod/a/secretbroker] ", one), prefixed("[pod/b/secretbroker] ", two)), "", "intact: 10 record(s)"},
		"kubectl logs --timestamps":   {prefixed("2027-01-10T12:00:00.123456789Z ", one), "", "intact: 6 record(s)"},
		"files of a node":             {cri(slices.Concat(one, two)), "", "intact: 10 record(s) of 2 run(s)"},
		"Docker's files":              {docker(one), "", "intact: 6 record(s)"},
		"beginning cut by rotation":   {slices.Concat(mixed(first[2:], log1), two), "", "begins at record 3, which cannot be verified"},
		"cut within a record":         {slices.Concat([]string{first[1][50:]}, first[2:]), "", "begins at record 3"},
		"two reads that overlap":      {slices.Concat(first[:4], first[1:]), "", "3 record(s) occur again, unchanged"},
		"an overlap after a cut":      {slices.Concat(first[2:4], first[2:]), "", "2 record(s) occur again"},
		"a whole copy":                {slices.Concat(one, one), "", "6 record(s) occur again"},
		"a removed record":            {mixed(without(first, 3), log1), logread.BreakSequence, "found record 5, expected record 4"},
		"one of two replicas removed": {interleaved(one, mixed(without(second, 1), log2)), logread.BreakSequence, "found record 3, expected record 2"},
		"removed after a cut":         {without(first[2:], 1), logread.BreakSequence, "found record 5, expected record 4"},
		"a changed record":            {mixed(changed, log1), logread.BreakRecord, "record 4 does not match"},
		"reordered records":           {swapped, logread.BreakSequence, "found record 4, expected record 3"},
		"an inserted record":          {slices.Concat(first[:4], []string{strings.Replace(first[3], `"seq":4`, `"seq":5`, 1)}, first[4:]), logread.BreakRecord, "record 5"},
		"a changed copy":              {slices.Concat(first, []string{forged}), logread.BreakRecord, "one of the two was changed"},
		"a changed copy of the first": {slices.Concat(first[2:], []string{strings.Replace(first[2], `"served"`, `"denied"`, 1)}), logread.BreakRecord, "one of the two was changed"},
		"the files in wrong order":    {slices.Concat(first[3:], first[:3]), logread.BreakSequence, "record 1 follows record 6"},
	} {
		t.Run(name, func(t *testing.T) {
			out, code := verifyStdin(t, strings.Join(tt.lines, "\n")+"\n")
			want := exitOK
			if tt.kind != "" {
				want = 9
			}
			if code != want || !strings.Contains(out, tt.want) || tt.kind != "" && !strings.Contains(out, ": "+string(tt.kind)+": ") {
				t.Errorf("exit code %d, want %d; %s in\n%s", code, want, tt.want, out)
			}
		})
	}
	if out, code := verifyStdin(t, strings.Join(log1, "\n")); code != exitFailure || !strings.Contains(out, "no audit record") {
		t.Errorf("a stream without a record: %d, %s", code, out)
	}
	// A file stays strict.
	file := filepath.Join(t.TempDir(), "out")
	if err := os.WriteFile(file, []byte(strings.Join(one, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	strict, err := logread.Verify(t.Context(), logread.VerifyConfig{}, []string{file})
	if err != nil || strict.Break == nil || strict.Break.Kind != logread.BreakUnchained {
		t.Errorf("a file with log messages: %+v, %v", strict, err)
	}
	// Queries find the records, too.
	n := 0
	unreadable, err := logread.Query(t.Context(), &logread.Filter{}, []string{writeFile(t, cri(one))}, func(*logread.Record) error { n++; return nil })
	if err != nil || n != 5 || unreadable != 0 {
		t.Errorf("a query of a node's file: %d records, %d unreadable, %v", n, unreadable, err)
	}
}

func writeFile(t *testing.T, lines []string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// docker returns the lines as Docker's driver json-file writes them.
func docker(lines []string) (out []string) {
	for _, l := range lines {
		for i, part := range []string{l[:len(l)/2], l[len(l)/2:] + "\n"} {
			stream := "stderr"
			if strings.HasPrefix(l, `{"v":1,`) {
				stream = "stdout"
			}
			out = append(out, fmt.Sprintf(`{"log":%s,"stream":%q,"time":"2027-01-10T12:00:0%dZ"}`, quoteJSON(part), stream, i))
		}
	}
	return out
}

// verifyStdin runs "secretbroker audit verify -".
func verifyStdin(t *testing.T, input string) (output string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "secretbroker", "audit", "verify", "-") // see TestMain
	cmd.Stdin = strings.NewReader(input)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	_ = cmd.Run() // the exit code says more
	return out.String(), cmd.ProcessState.ExitCode()
}
