package audit

import (
	"bufio"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit/chain"
)

// read returns the lines of a log without segment headers.
func read(t *testing.T, path string) []string {
	t.Helper()
	return slices.DeleteFunc(readAll(t, path), func(line string) bool { return chain.IsSegmentHeader([]byte(line)) })
}

// readAll returns a log's lines.
func readAll(t *testing.T, path string) []string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for s := bufio.NewScanner(strings.NewReader(string(data))); s.Scan(); {
		lines = append(lines, s.Text())
	}
	return lines
}

func TestWriteAppendsLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	e := Event{
		Type: TypeAccess, Time: time.Date(2027, 1, 2, 3, 4, 5, 6, time.UTC), RequestID: "r1", Method: "Resolve", Principal: "spiffe://example.org/w",
		PeerAddress: "192.0.2.1:5", CertificateSHA256: "cd", CertificateSerial: "ab", IntegrationID: "i", Connector: "c<\n>", Config: "password",
		Reference: "https://my-vault.vault.azure.net::s", Store: "https://my-vault.vault.azure.net", Secret: "s", JSONKey: "k", Outcome: Served, GrantID: "0123456789abcdef0123456789abcdef", Version: "v", Source: "hit",
	}
	const want = `{"v":1,"type":"access","time":"2027-01-02T03:04:05.000000006Z","request_id":"r1","method":"Resolve","principal":"spiffe://example.org/w",` +
		`"peer_address":"192.0.2.1:5","certificate_sha256":"cd","certificate_serial":"ab","integration_id":"i","connector":"c<\n>","config":"password",` +
		`"reference":"https://my-vault.vault.azure.net::s","store":"https://my-vault.vault.azure.net","secret":"s","json_key":"k","outcome":"served","grant_id":"0123456789abcdef0123456789abcdef","version":"v","source":"hit"`
	for range 2 { // the file is appended to
		l, err := Open(Config{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Write(t.Context(), []Event{e, {Outcome: Rejected, Reason: "X"}}); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if err := l.Write(t.Context(), []Event{e}); err == nil {
			t.Error("a closed log accepted an event")
		}
	}
	lines := read(t, path)
	sealed := regexp.MustCompile(`^` + regexp.QuoteMeta(want) + `,"seq":[2-5],"chain":"[0-9a-f]{64}"}$`)
	if len(lines) != 4 || !sealed.MatchString(lines[0]) || !sealed.MatchString(lines[2]) {
		t.Errorf("got %q", lines)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
}

// TestConcurrentWrites: log rotation under load loses and tears no line, and the lines of
// one Write are contiguous.
func TestConcurrentWrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l, err := Open(Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	var writers sync.WaitGroup
	for i := range 8 {
		writers.Go(func() {
			for range 50 {
				id := string(rune('a' + i))
				if err := l.Write(t.Context(), []Event{{RequestID: id, Config: "1"}, {RequestID: id, Config: "2"}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	var lines []string
	for range 20 {
		if err := os.Rename(path, path+".1"); err != nil {
			t.Fatal(err)
		}
		if err := l.Reopen(); err != nil {
			t.Error(err)
		}
		lines = append(lines, read(t, path+".1")...) // the Log does not write to it after Reopen
	}
	writers.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	lines = append(lines, read(t, path)...)
	if len(lines) != 800 {
		t.Fatalf("%d lines", len(lines))
	}
	for i := 0; i < len(lines); i += 2 {
		var a, b Event
		if err := errors.Join(json.Unmarshal([]byte(lines[i]), &a), json.Unmarshal([]byte(lines[i+1]), &b)); err != nil {
			t.Fatal(err)
		}
		if a.RequestID != b.RequestID || a.Config != "1" || b.Config != "2" {
			t.Fatalf("lines %d and %d: %s %s", i, i+1, lines[i], lines[i+1])
		}
	}
}

func TestReopenAfterRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l, err := Open(Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	write := func(id string) {
		t.Helper()
		if err := l.Write(t.Context(), []Event{{RequestID: id}}); err != nil {
			t.Fatal(err)
		}
	}
	write("before")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	write("moved")
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	write("after")
	if old, now := read(t, path+".1"), read(t, path); len(old) != 2 || len(now) != 1 || !strings.Contains(now[0], "after") {
		t.Errorf("old %q, new %q", old, now)
	}
	if err := os.Rename(path, path+".2"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(); err == nil {
		t.Error("a directory was opened")
	}
	write("still") // the old file stays in use
}

// tornWriter accepts room bytes and then fails, as a full disk does.
type tornWriter struct {
	strings.Builder
	room int
}

func (w *tornWriter) Write(p []byte) (int, error) {
	n := min(w.room, len(p))
	w.room -= n
	w.Builder.Write(p[:n])
	if n < len(p) {
		return n, errors.New("no space left on device")
	}
	return n, nil
}

// TestTornLine: a line that a full disk cut off does not damage the next record.
func TestTornLine(t *testing.T) {
	w := &tornWriter{room: 10}
	l := New(w)
	defer l.Close()
	if err := l.Write(t.Context(), []Event{{RequestID: "lost"}}); err == nil {
		t.Fatal("a write to a full disk succeeded")
	}
	w.room = 1 << 20
	for _, id := range []string{"one", "two"} {
		if err := l.Write(t.Context(), []Event{{RequestID: id}}); err != nil {
			t.Fatal(err)
		}
	}
	lines := strings.Split(strings.TrimSpace(w.String()), "\n")
	if len(lines) != 4 || !strings.Contains(lines[1], `"cause":"torn"`) || !json.Valid([]byte(lines[2])) || !json.Valid([]byte(lines[3])) {
		t.Errorf("got %q", lines)
	}
}

func TestTornLineOfAnEarlierRun(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	if err := os.WriteFile(path, []byte(`{"time":"20`), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := Open(Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.Write(t.Context(), []Event{{RequestID: "one"}}); err != nil {
		t.Fatal(err)
	}
	if lines := read(t, path); len(lines) != 2 || !json.Valid([]byte(lines[1])) {
		t.Errorf("got %q", lines)
	}
}

func TestOpenFails(t *testing.T) {
	if _, err := Open(Config{Path: filepath.Join(t.TempDir(), "no", "such", "directory")}); err == nil {
		t.Error("opened")
	}
}

func TestParseOutcome(t *testing.T) {
	for _, o := range outcomes {
		if got, err := ParseOutcome(string(o)); got != o || err != nil {
			t.Errorf("%s: %s, %v", o, got, err)
		}
	}
	if _, err := ParseOutcome("read"); err == nil || !strings.Contains(err.Error(), "served") {
		t.Errorf("got %v", err)
	}
}
