package audit

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestChainIsAsDocumented computes a chain with the standard library alone, as
// another program that verifies would.
func TestChainIsAsDocumented(t *testing.T) {
	secret := bytes.Repeat([]byte("k"), 32)
	key, err := NewKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, Config{Path: path, Key: key})
	writeIDs(t, l, "a", "b")
	head := l.Head()
	closeLog(t, l)
	before := make([]byte, 32)
	for i, line := range readAll(t, path) {
		body, rest, ok := strings.Cut(line, `,"chain":"`)
		if !ok || !strings.HasSuffix(body, fmt.Sprintf(`,"seq":%d`, i+1)) {
			t.Fatalf("line %q", line)
		}
		mac := hmac.New(sha256.New, secret)
		mac.Write(before)
		mac.Write([]byte(body))
		before = mac.Sum(nil)
		if rest != hex.EncodeToString(before)+`"}` {
			t.Errorf("line %d: %s", i+1, rest)
		}
	}
	if want := "3:" + hex.EncodeToString(before); head.String() != want {
		t.Errorf("head %v, want %s", head, want)
	}
	if parsed, err := ParseHead(head.String()); err != nil || parsed != head {
		t.Errorf("ParseHead: %v, %v", parsed, err)
	}
}

func TestParseHeadRejects(t *testing.T) {
	digits := strings.Repeat("a", 64)
	for _, s := range []string{"", "1", "1:", ":" + digits, "0:" + digits, "-1:" + digits, "1:" + digits[1:], "1:" + digits + "a", "1:" + strings.ToUpper(digits), "1:" + strings.Repeat("g", 64)} {
		if h, err := ParseHead(s); err == nil {
			t.Errorf("ParseHead(%q) = %v", s, h)
		}
	}
}

func TestUnsealRejects(t *testing.T) {
	digits := strings.Repeat("0", 64)
	for _, line := range []string{
		"", `"}`, `{}`, `,"chain":"` + digits + `"}`, `{"a":1,"chain":"` + digits + `"}`, `{"a":1,"seq":,"chain":"` + digits + `"}`,
		`{"a":1,"seq":0,"chain":"` + digits + `"}`, `{"a":1,"seq":01,"chain":"` + digits + `"}`, `{"a":1,"seq":+1,"chain":"` + digits + `"}`,
		`{"a":1,"seq":18446744073709551616,"chain":"` + digits + `"}`, `{"a":1,"seq":1,"chain":"` + digits[1:] + `g"}`,
		`{"a":1,"seq":1,"chain":"` + digits + `"} `, `{"a":1,"seq":1,"b":2,"chain":"` + digits + `"}`,
		`{"a":",\"seq\":1,\"chain\":\"` + digits + `"}`, // an event's text
	} {
		if _, head, ok := unseal([]byte(line)); ok {
			t.Errorf("%s: %v", line, head)
		}
	}
	if _, head, ok := unseal([]byte(`{"a":1,"seq":18446744073709551615,"chain":"` + digits + `"}`)); !ok || head.Seq != 1<<64-1 {
		t.Errorf("the largest number: %v, %v", head, ok)
	}
}

func TestReadKey(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const secret = "0123456789abcdef0123456789abcdef"
	a, err := ReadKey(file("a", secret))
	b, err2 := ReadKey(file("b", secret+"\r\n"))
	if err := errors.Join(err, err2); err != nil || a.ID() != b.ID() || len(a.ID()) != 16 {
		t.Errorf("%v, %v, %v", a, b, err)
	}
	if text := fmt.Sprintf("%v %+v %#v", a, a, *a); strings.Contains(text, secret) || strings.Contains(text, hex.EncodeToString([]byte(secret))) {
		t.Error("the key shows its bytes")
	}
	for _, path := range []string{file("short", secret[1:]), file("empty", ""), file("long", strings.Repeat("x", maxKey+1)), dir, filepath.Join(dir, "none")} {
		if _, err := ReadKey(path); err == nil || strings.Contains(err.Error(), secret[1:]) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestChainGoesOn: whatever a file ends with, the log goes on with its chain, and
// declares what is no record.
func TestChainGoesOn(t *testing.T) {
	var buf bytes.Buffer
	l := New(&buf)
	writeIDs(t, l, "a", "b", "c")
	closeLog(t, l)
	whole := buf.String()
	tests := []struct {
		name, file string
		want       string // the findings, without the file's name
		records    int    // with the marker and one more
	}{
		{"nothing", "", "", 2},
		{"records", whole, "", 5},
		{"no last newline", strings.TrimSuffix(whole, "\n"), "", 5},
		{"half a line", whole + `{"time":"2`, "4: note", 5},
		{"half a record", whole[:len(whole)-10], "3: note", 4},
		{"empty lines", whole + "\n\n", "4: note", 5},
		{"one newline", "\n", "1: note", 2},
		{"zeros after a crash", whole + strings.Repeat("\x00", 5000), "4: note", 5},
		{"a log without chain", strings.Repeat(`{"time":"2027-01-02T03:04:05Z","outcome":"served"}`+"\n", 5000), "1: note", 2},
		{"a long line", whole + strings.Repeat("x", 2*maxLine), "4: note", 5},
		{"long lines", whole + strings.Repeat(strings.Repeat("x", 200_000)+"\n", 3), "4: note", 5},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "f")
			if err := os.WriteFile(path, []byte(tt.file), 0o600); err != nil {
				t.Fatal(err)
			}
			l := open(t, Config{Path: path})
			writeIDs(t, l, "z")
			closeLog(t, l)
			r := verify(t, VerifyConfig{}, path)
			if got := strings.ReplaceAll(strings.Join(found(r), " "), "f:", ""); got != tt.want || r.Records != tt.records {
				t.Errorf("findings %q, %d records", r.Findings, r.Records)
			}
		})
	}
}

// TestLastRecordAnywhere: the end of the last record is found wherever it lies
// between the pieces that the file is read in.
func TestLastRecordAnywhere(t *testing.T) {
	var buf bytes.Buffer
	l := New(&buf)
	writeIDs(t, l, "a")
	want := l.Head()
	closeLog(t, l)
	record := buf.Bytes()
	for after := 64<<10 - 2*maxSeal; after < 64<<10+2*maxSeal; after++ {
		file := append(bytes.Clone(record), bytes.Repeat([]byte("x"), after)...)
		head, end, err := lastRecord(bytes.NewReader(file), int64(len(file)))
		if head != want || end != int64(len(record)) || err != nil {
			t.Fatalf("%d bytes after it: %v, %d, %v", after, head, end, err)
		}
	}
}

// FuzzTail: whatever stands in a file, a log can go on with it and verifies from
// its own marker on, with no more faults than before.
func FuzzTail(f *testing.F) {
	var buf bytes.Buffer
	l := New(&buf)
	writeIDs(f, l, "a", "b")
	closeLog(f, l)
	for _, s := range []string{"", "\n", "x", "x\n", buf.String(), buf.String()[:buf.Len()-1], buf.String() + "\n\nx"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "f")
		if bytes.HasPrefix(data, []byte{0x1f, 0x8b}) || os.WriteFile(path, data, 0o600) != nil {
			t.Skip()
		}
		before := verify(t, VerifyConfig{}, path)
		l := open(t, Config{Path: path})
		writeIDs(t, l, "z")
		head := l.Head()
		closeLog(t, l)
		after := verify(t, VerifyConfig{Heads: []Head{head}}, path)
		if before.Faults() == 0 && after.Faults() > 0 {
			t.Errorf("%q: %q", data, after.Findings)
		}
	})
}
