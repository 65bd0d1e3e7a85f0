package logread

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/audit/chain"
)

// found returns the break as "FILE:LINE: KIND", "" for none.
func found(r *Report) string {
	if r.Break == nil {
		return ""
	}
	return fmt.Sprintf("%s:%d: %s", filepath.Base(r.Break.File), r.Break.Line, r.Break.Kind)
}

func TestVerifyIntact(t *testing.T) {
	key := testKey(t, "k")
	for _, tt := range []struct {
		name string
		key  *chain.Key
		cfg  VerifyConfig
	}{
		{"plain", nil, VerifyConfig{}},
		{"keyed", key, VerifyConfig{Keys: []*chain.Key{testKey(t, "another"), key}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files, head := writeSample(t, tt.key)
			tt.cfg.Heads = []chain.Head{head}
			r := verify(t, tt.cfg, files...)
			if found(r) != "" || r.Last != head || r.First.Seq != 1 || r.Previous.Seq != 0 || r.Records != 11 {
				t.Errorf("%d records, first %d, last %v, found %q", r.Records, r.First.Seq, r.Last, found(r))
			}
			if want := int64(len(tornLine) + 1); r.UnchainedBytes != want {
				t.Errorf("%d unchained bytes, want %d", r.UnchainedBytes, want)
			}
			// The second file alone says what it goes on from.
			r = verify(t, tt.cfg, files[1])
			if found(r) != "" || r.Previous.Seq != 7 || r.First.Seq != 8 || r.Records != 4 {
				t.Errorf("found %q, %+v", found(r), r)
			}
			// Compressed, under any name.
			var gz bytes.Buffer
			w := gzip.NewWriter(&gz)
			data, err := os.ReadFile(files[0])
			if err == nil {
				_, err = w.Write(data)
			}
			if err := errors.Join(err, w.Close(), os.WriteFile(files[0], gz.Bytes(), 0o600)); err != nil {
				t.Fatal(err)
			}
			if r := verify(t, tt.cfg, files...); found(r) != "" || r.Records != 11 {
				t.Errorf("compressed: %q", found(r))
			}
		})
	}
}

// TestVerifyFindsEveryChange: no change of a byte, a line or the order of lines goes
// unnoticed, wherever it is, and everything before it is intact.
func TestVerifyFindsEveryChange(t *testing.T) {
	for _, key := range []*chain.Key{nil, testKey(t, "k")} {
		files, head := writeSample(t, key)
		cfg := VerifyConfig{Heads: []chain.Head{head}}
		if key != nil {
			cfg.Keys = []*chain.Key{key}
		}
		var whole [2][]byte
		for i, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			whole[i] = data
		}
		before := 0               // the records of the file before
		start := newVerifier(cfg) // after that file
		for which, original := range whole {
			changed := func(what string, line int, data []byte) {
				t.Helper()
				v := *start
				v.heads = slices.Clone(v.heads)
				scan(t, &v, files[which], data)
				for i := which + 1; i < len(whole); i++ {
					scan(t, &v, files[i], whole[i])
				}
				v.finish()
				intact := before + line - 1
				if which == 0 && line > 5 {
					intact-- // line 5 is the torn one
				}
				if v.report.Break == nil || v.report.Records != intact || v.report.Last.Seq != uint64(intact) {
					t.Errorf("%s: %s: found %q, %d records are intact, want %d", filepath.Base(files[which]), what, found(&v.report), v.report.Records, intact)
				}
			}
			random := rand.New(rand.NewPCG(1, 2))
			line := 1
			for i := range original {
				data := bytes.Clone(original)
				data[i] ^= byte(1 + random.IntN(255))
				changed(fmt.Sprintf("byte %d is %q", i, data[i]), line, data)
				if i > 0 && original[i-1] != '\n' && original[i] != '\n' {
					changed(fmt.Sprintf("byte %d is a newline", i), line, append(append(bytes.Clone(original[:i]), '\n'), original[i:]...))
				}
				if i < len(original)-1 { // a missing newline at the end changes nothing
					changed(fmt.Sprintf("byte %d is gone", i), line, append(bytes.Clone(original[:i]), original[i+1:]...))
				}
				if original[i] == '\n' {
					changed(fmt.Sprintf("an empty line %d", line+1), line+1, append(append(bytes.Clone(original[:i]), '\n'), original[i:]...))
					line++
				}
			}
			lines := bytes.SplitAfter(bytes.TrimSuffix(original, []byte("\n")), []byte("\n"))
			lines[len(lines)-1] = append(bytes.Clone(lines[len(lines)-1]), '\n')
			for i := range lines {
				changed(fmt.Sprintf("line %d is gone", i+1), i+1, bytes.Join(slices.Delete(slices.Clone(lines), i, i+1), nil))
				changed(fmt.Sprintf("line %d is duplicated", i+1), i+2, bytes.Join(slices.Insert(slices.Clone(lines), i, lines[i]), nil))
				for j := range i {
					other := slices.Clone(lines)
					other[i], other[j] = other[j], other[i]
					changed(fmt.Sprintf("lines %d and %d are swapped", j+1, i+1), j+1, bytes.Join(other, nil))
				}
			}
			scan(t, start, files[which], original)
			before = start.report.Records
		}
	}
}

func scan(t *testing.T, v *verifier, name string, data []byte) {
	t.Helper()
	if v.report.Break != nil {
		return
	}
	if err := scanLines(t.Context(), name, bytes.NewReader(data), v.line); err != nil && !errors.Is(err, errBroken) {
		t.Fatal(err)
	}
}

// TestVerifyNamesBreak: the first change is the break, of the right kind and in its line.
func TestVerifyNamesBreak(t *testing.T) {
	replace := func(line int, old, text string) func([]string) []string {
		return func(lines []string) []string {
			if !strings.Contains(lines[line-1], old) {
				panic(lines[line-1])
			}
			lines[line-1] = strings.Replace(lines[line-1], old, text, 1)
			return lines
		}
	}
	var buf bytes.Buffer
	l := audit.New(&buf)
	writeIDs(t, l, "a", "b", "c", "d", "e", "f", "g", "h")
	closeLog(t, l)
	tests := []struct {
		name   string
		change func([]string) []string
		want   string
	}{
		{"nothing", func(l []string) []string { return l }, ""},
		{"an event", replace(3, `"c"`, `"x"`), "log:3: record"},
		{"the first event", replace(1, `"a"`, `"x"`), "log:1: record"},
		{"the last event", replace(8, `"h"`, `"x"`), "log:8: record"},
		{"a chain value", func(l []string) []string {
			i := len(l[2]) - 3
			l[2] = l[2][:i] + map[bool]string{true: "1", false: "0"}[l[2][i] == '0'] + `"}`
			return l
		}, "log:3: record"},
		{"a number, up", replace(3, `"seq":3`, `"seq":5`), "log:3: sequence"},
		{"a number, down", replace(3, `"seq":3`, `"seq":1`), "log:3: sequence"},
		{"a line's form", replace(3, `"seq":`, `"sec":`), "log:3: unchained"},
		{"a line removed", func(l []string) []string { return slices.Delete(l, 2, 3) }, "log:3: sequence"},
		{"three lines removed", func(l []string) []string { return slices.Delete(l, 2, 5) }, "log:3: sequence"},
		{"the first line removed", func(l []string) []string { return l[1:] }, "log:1: sequence"},
		{"a line twice", func(l []string) []string { return slices.Insert(l, 3, l[2]) }, "log:4: sequence"},
		{"an old line again", func(l []string) []string { return slices.Insert(l, 5, l[2]) }, "log:6: sequence"},
		{"a forged line", func(l []string) []string { return slices.Insert(l, 2, strings.Replace(l[2], `"c"`, `"x"`, 1)) }, "log:3: record"},
		{"a line of no log", func(l []string) []string { return slices.Insert(l, 2, `{"outcome":"served"}`) }, "log:3: unchained"},
		{"an empty line", func(l []string) []string { return slices.Insert(l, 2, "") }, "log:3: unchained"},
		{"a line of no log at the end", func(l []string) []string { return append(l, `{"outcome":"served"}`) }, "log:9: unchained"},
		{"two swapped", func(l []string) []string { l[2], l[3] = l[3], l[2]; return l }, "log:3: sequence"},
		{"one moved down", func(l []string) []string { return slices.Concat(l[:2], l[3:6], l[2:3], l[6:]) }, "log:3: sequence"},
		{"two moved down", func(l []string) []string { return slices.Concat(l[:2], l[4:7], l[2:4], l[7:]) }, "log:3: sequence"},
		{"the end cut", func(l []string) []string { l[7] = l[7][:20]; return l }, "log:8: torn"},
		{"a very long line", func(l []string) []string { return slices.Insert(l, 2, strings.Repeat("x", 3*chain.MaxLine)) }, "log:3: unchained"},
		{"two changes", func(l []string) []string { return slices.Delete(replace(2, `"b"`, `"x"`)(l), 4, 5) }, "log:2: record"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			lines := tt.change(strings.Split(strings.TrimSuffix(buf.String(), "\n"), "\n"))
			text := strings.Join(lines, "\n")
			if tt.name != "the end cut" {
				text += "\n"
			}
			file := filepath.Join(t.TempDir(), "log")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			r := verify(t, VerifyConfig{}, file)
			if got := found(r); got != tt.want {
				t.Errorf("found %v, want %q", r.Break, tt.want)
			}
		})
	}
}

func TestVerifyFiles(t *testing.T) {
	files, head := writeSample(t, nil)
	other, _ := writeSample(t, nil)
	cut := filepath.Join(t.TempDir(), "audit.jsonl.1")
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cut, data[:bytes.LastIndexByte(data[:len(data)-1], '\n')+1], 0o600); err != nil {
		t.Fatal(err)
	}
	wrong := head
	wrong.Chain[5]++
	for _, tt := range []struct {
		name  string
		heads []chain.Head
		files []string
		want  string
	}{
		{"files in the wrong order", nil, []string{files[1], files[0]}, "audit.jsonl.1:1: sequence"},
		{"the end of a file is missing", nil, []string{cut, files[1]}, "audit.jsonl:1: sequence"},
		{"another log", nil, []string{files[0], other[0]}, "audit.jsonl.1:1: sequence"},
		{"the first file is missing", []chain.Head{{Seq: 3}}, files[1:], "audit.jsonl:4: head"},
		{"the last file is missing", []chain.Head{head}, files[:1], "audit.jsonl.1:8: head"},
		{"another head", []chain.Head{wrong}, files, "audit.jsonl:4: head"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := verify(t, VerifyConfig{Heads: tt.heads}, tt.files...)
			if got := found(r); got != tt.want {
				t.Errorf("found %v, want %q", r.Break, tt.want)
			}
		})
	}
	if _, err := Verify(t.Context(), VerifyConfig{}, []string{filepath.Join(t.TempDir(), "none")}); err == nil {
		t.Error("a file that does not exist was read")
	}
}

// TestVerifyKeys: a chain that was computed without the key does not pass for one with it.
func TestVerifyKeys(t *testing.T) {
	key, other := testKey(t, "k"), testKey(t, "o")
	keyed, _ := writeSample(t, key)
	plain, _ := writeSample(t, nil)
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	for _, k := range []*chain.Key{nil, key, other, nil} { // the key is introduced, changed, and given up
		l := open(t, audit.Config{Path: path, Key: k})
		writeIDs(t, l, "a", "b")
		closeLog(t, l)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	introduced := filepath.Join(t.TempDir(), "introduced")
	lines := bytes.SplitAfter(whole, []byte("\n"))
	if err := os.WriteFile(introduced, bytes.Join(lines[:9], nil), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		keys  []*chain.Key
		files []string
		want  string
	}{
		{"no key given", nil, keyed, "audit.jsonl.1:1: key"},
		{"another key", []*chain.Key{other}, keyed, "audit.jsonl.1:1: key"},
		{"computed again without the key", []*chain.Key{key}, plain, "audit.jsonl:4: key"},
		{"key introduced and changed", []*chain.Key{key, other}, []string{introduced}, ""},
		{"key removed later", []*chain.Key{key, other}, []string{path}, "audit.jsonl:10: key"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := verify(t, VerifyConfig{Keys: tt.keys}, tt.files...)
			if got := found(r); got != tt.want {
				t.Errorf("found %v, want %q", r.Break, tt.want)
			}
		})
	}
}

func FuzzVerify(f *testing.F) {
	files, head := writeSample(f, nil)
	var all []byte
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		all = append(all, data...)
		f.Add(data)
	}
	f.Add(all)
	f.Add([]byte("\x1f\x8b"))
	f.Add([]byte(`{"v":1,"type":"segment","cause":"opened","unchained_bytes":1,"seq":1,"chain":"` + strings.Repeat("0", 64) + `"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		v := newVerifier(VerifyConfig{Heads: []chain.Head{head}})
		if err := scanLines(t.Context(), "f", bytes.NewReader(data), v.line); err != nil && !errors.Is(err, errBroken) {
			return // invalid gzip
		}
		v.finish()
		// The end of the log, from a segment header on, is intact by itself.
		intact := bytes.HasSuffix(bytes.TrimSuffix(all, []byte("\n")), bytes.TrimSuffix(data, []byte("\n")))
		if !intact && !bytes.HasPrefix(data, []byte{0x1f, 0x8b}) && v.report.Break == nil {
			t.Errorf("no break in %q", data)
		}
	})
}

// TestVerifyUnchainedAcrossFiles: a header declares what was cut off at the end of one
// file and at the beginning of the next.
func TestVerifyUnchainedAcrossFiles(t *testing.T) {
	var u chain.Unchained
	u.Add([]byte("x"))
	u.EndLine()
	u.Add([]byte("y\n"))
	k := chain.NewLinker(nil)
	header := chain.NewSegmentHeader(chain.Resumed, k, chain.Head{}, &u)
	dir := t.TempDir()
	first, second := filepath.Join(dir, "1"), filepath.Join(dir, "2")
	if err := errors.Join(os.WriteFile(first, []byte("x"), 0o600), os.WriteFile(second, k.Seal([]byte("y\n"), header.Encode(), &chain.Head{}), 0o600)); err != nil {
		t.Fatal(err)
	}
	if r := verify(t, VerifyConfig{}, first, second); r.Break != nil || r.UnchainedBytes != 4 {
		t.Errorf("found %v, %d bytes", r.Break, r.UnchainedBytes)
	}
}
