package audit

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/audit/chain"
)

// TestChainIsAsDocumented computes a chain with the standard library alone, like another
// program that verifies the log.
func TestChainIsAsDocumented(t *testing.T) {
	secret := bytes.Repeat([]byte("k"), 32)
	key, err := chain.NewKey(secret)
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
	if parsed, err := chain.ParseHead(head.String()); err != nil || parsed != head {
		t.Errorf("ParseHead: %v, %v", parsed, err)
	}
}

// TestChainContinues: whatever a file ends with, the log continues the chain and declares
// the bytes that are not a record.
func TestChainContinues(t *testing.T) {
	var buf bytes.Buffer
	l := New(&buf)
	writeIDs(t, l, "a", "b", "c")
	closeLog(t, l)
	whole := buf.String()
	tests := []struct {
		name, file string
		records    int   // including the segment header and the added one
		unchained  int64 // bytes
	}{
		{"nothing", "", 2, 0},
		{"records", whole, 5, 0},
		{"no last newline", strings.TrimSuffix(whole, "\n"), 5, 0},
		{"half a line", whole + `{"time":"2`, 5, 11},
		{"half a record", whole[:len(whole)-10], 4, int64(len(whole)/3 - 10 + 1)},
		{"empty lines", whole + "\n\n", 5, 2},
		{"one newline", "\n", 2, 1},
		{"zeros after a crash", whole + strings.Repeat("\x00", 5000), 5, 5001},
		{"a log without chain", strings.Repeat(`{"time":"2027-01-02T03:04:05Z","outcome":"served"}`+"\n", 5000), 2, 255_000},
		{"a long line", whole + strings.Repeat("x", 2*chain.MaxLine), 5, 2*chain.MaxLine + 1},
		{"long lines", whole + strings.Repeat(strings.Repeat("x", 200_000)+"\n", 3), 5, 600_003},
		{"a long first line", strings.Repeat("x", 2*chain.MaxLine), 2, 2*chain.MaxLine + 1},
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
			if r := verify(t, path); r.Break != "" || r.Records != tt.records || r.UnchainedBytes != tt.unchained {
				t.Errorf("%+v", r)
			}
		})
	}
}

// FuzzTail: whatever a file contains, a Log can append to it. If the file was intact before,
// it still is.
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
		before := verify(t, path)
		l := open(t, Config{Path: path})
		writeIDs(t, l, "z")
		head := l.Head()
		closeLog(t, l)
		after := verifyTo(t, head, path)
		if before.Break == "" && after.Break != "" {
			t.Errorf("%q: %s", data, after.Break)
		}
	})
}
