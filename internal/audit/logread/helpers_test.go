package logread

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/audit/chain"
)

func testKey(t testing.TB, s string) *chain.Key {
	t.Helper()
	k, err := chain.NewKey([]byte(strings.Repeat(s, 32)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func writeIDs(t testing.TB, l *audit.Log, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if err := l.Write(t.Context(), []audit.Event{{RequestID: id, Outcome: audit.Served}}); err != nil {
			t.Fatal(err)
		}
	}
}

func open(t testing.TB, cfg audit.Config) *audit.Log {
	t.Helper()
	l, err := audit.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func closeLog(t testing.TB, l *audit.Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// tornLine is a line that a crash cut off.
const tornLine = `{"time":"2027-01-`

// writeSample writes a log with a restart, a line torn by a crash and a rotation, with or
// without a key. It returns its
// two files and the head.
func writeSample(t testing.TB, key *chain.Key) (files []string, head chain.Head) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, audit.Config{Path: path, Key: key})
	writeIDs(t, l, "a", "b", "c")
	closeLog(t, l)

	torn, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := torn.WriteString(tornLine); err != nil {
		t.Fatal(err)
	}
	if err := torn.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, audit.Config{Path: path, Key: key})
	writeIDs(t, l, "d", "e")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	writeIDs(t, l, "f", "g", "h")
	head = l.Head()
	closeLog(t, l)
	return []string{path + ".1", path}, head
}

func verify(t testing.TB, cfg VerifyConfig, files ...string) *Report {
	t.Helper()
	r, err := Verify(t.Context(), cfg, files)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
