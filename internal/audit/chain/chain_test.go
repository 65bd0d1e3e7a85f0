package chain

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

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
		if _, head, ok := Unseal([]byte(line)); ok {
			t.Errorf("%s: %v", line, head)
		}
	}
	if _, head, ok := Unseal([]byte(`{"a":1,"seq":18446744073709551615,"chain":"` + digits + `"}`)); !ok || head.Seq != 1<<64-1 {
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
		t.Error("formatting the key printed its bytes")
	}
	for _, path := range []string{file("short", secret[1:]), file("empty", ""), file("long", strings.Repeat("x", maxKey+1)), dir, filepath.Join(dir, "none")} {
		if _, err := ReadKey(path); err == nil || strings.Contains(err.Error(), secret[1:]) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestLastRecordAnywhere: lastRecord finds the last record wherever it lies relative to the
// windows in which the file is read.
func TestLastRecordAnywhere(t *testing.T) {
	var want Head
	record := NewLinker(nil).Seal(nil, []byte(`{"request_id":"a"}`), &want)
	for after := 64<<10 - 2*MaxEnding; after < 64<<10+2*MaxEnding; after++ {
		file := append(bytes.Clone(record), bytes.Repeat([]byte("x"), after)...)
		head, end, err := lastRecord(bytes.NewReader(file), int64(len(file)))
		if head != want || end != int64(len(record)) || err != nil {
			t.Fatalf("%d bytes after it: %v, %d, %v", after, head, end, err)
		}
	}
}
