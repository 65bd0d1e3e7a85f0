package audit

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
)

func testKey(t testing.TB, s string) *Key {
	t.Helper()
	k, err := NewKey([]byte(strings.Repeat(s, 32)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func writeIDs(t testing.TB, l *Log, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if err := l.Write(t.Context(), []Event{{RequestID: id, Outcome: Served}}); err != nil {
			t.Fatal(err)
		}
	}
}

func open(t testing.TB, cfg Config) *Log {
	t.Helper()
	l, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func closeLog(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// writeSample writes a log with all that a chain goes through: a restart, a line
// torn by a crash, a rotation and a start with or without a key. It returns its
// two files and the head.
func writeSample(t testing.TB, key *Key) (files []string, head Head) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, Config{Path: path, Key: key})
	writeIDs(t, l, "a", "b", "c")
	closeLog(t, l)

	torn, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := torn.WriteString(`{"time":"2027-01-`); err != nil {
		t.Fatal(err)
	}
	if err := torn.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, Config{Path: path, Key: key})
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

// found lists the findings as "FILE:LINE: KIND".
func found(r *Report) []string {
	var all []string
	for _, f := range r.Findings {
		all = append(all, fmt.Sprintf("%s:%d: %s", filepath.Base(f.File), f.Line, f.Kind))
	}
	return all
}

func TestVerifyIntact(t *testing.T) {
	key := testKey(t, "k")
	for _, tt := range []struct {
		name string
		key  *Key
		cfg  VerifyConfig
	}{
		{"plain", nil, VerifyConfig{}},
		{"keyed", key, VerifyConfig{Keys: []*Key{testKey(t, "another"), key}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files, head := writeSample(t, tt.key)
			tt.cfg.Heads = []Head{head}
			r := verify(t, tt.cfg, files...)
			if r.Faults() != 0 || r.Last != head || r.First.Seq != 1 || r.Records != 11 {
				t.Errorf("%d records, first %d, last %v, findings %q", r.Records, r.First.Seq, r.Last, found(r))
			}
			if got := found(r); !slices.Equal(got, []string{"audit.jsonl.1:5: note"}) { // the torn line
				t.Errorf("findings %q", got)
			}
			// The second file alone says what it goes on from.
			r = verify(t, tt.cfg, files[1])
			if got := found(r); !slices.Equal(got, []string{"audit.jsonl:1: note"}) {
				t.Errorf("findings %q", got)
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
			if r := verify(t, tt.cfg, files...); r.Faults() != 0 || r.Records != 11 {
				t.Errorf("compressed: %q", found(r))
			}
		})
	}
}

// TestVerifyFindsEveryChange: no change of a byte, a line or the order of lines
// goes unnoticed, wherever it is.
func TestVerifyFindsEveryChange(t *testing.T) {
	for _, key := range []*Key{nil, testKey(t, "k")} {
		files, head := writeSample(t, key)
		cfg := VerifyConfig{Heads: []Head{head}}
		if key != nil {
			cfg.Keys = []*Key{key}
		}
		var whole [2][]byte
		for i, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			whole[i] = data
		}
		for which, original := range whole {
			changed := func(what string, data []byte) {
				t.Helper()
				v := newVerifier(cfg)
				for i := range whole {
					if i != which {
						scan(t, v, files[i], whole[i])
					} else {
						scan(t, v, files[i], data)
					}
				}
				v.finish()
				if v.report.Faults() == 0 {
					t.Errorf("%s: %s: nothing found", filepath.Base(files[which]), what)
				}
			}
			random := rand.New(rand.NewPCG(1, 2))
			for i := range original {
				data := bytes.Clone(original)
				data[i] ^= byte(1 + random.IntN(255))
				changed(fmt.Sprintf("byte %d is %q", i, data[i]), data)
				changed(fmt.Sprintf("byte %d is a newline", i), append(append(bytes.Clone(original[:i]), '\n'), original[i:]...))
				if i < len(original)-1 { // a newline at the end is no loss
					changed(fmt.Sprintf("byte %d is gone", i), append(bytes.Clone(original[:i]), original[i+1:]...))
				}
			}
			lines := bytes.SplitAfter(bytes.TrimSuffix(original, []byte("\n")), []byte("\n"))
			lines[len(lines)-1] = append(bytes.Clone(lines[len(lines)-1]), '\n')
			for i := range lines {
				changed(fmt.Sprintf("line %d is gone", i+1), bytes.Join(slices.Delete(slices.Clone(lines), i, i+1), nil))
				changed(fmt.Sprintf("line %d stands twice", i+1), bytes.Join(slices.Insert(slices.Clone(lines), i, lines[i]), nil))
				for j := range i {
					other := slices.Clone(lines)
					other[i], other[j] = other[j], other[i]
					changed(fmt.Sprintf("lines %d and %d are swapped", j+1, i+1), bytes.Join(other, nil))
				}
			}
		}
	}
}

func scan(t *testing.T, v *verifier, name string, data []byte) {
	t.Helper()
	if err := scanLines(t.Context(), name, bytes.NewReader(data), v.line); err != nil {
		t.Fatal(err)
	}
}

// TestVerifyNamesFaults: one change is one fault, of the right kind and in its
// line.
func TestVerifyNamesFaults(t *testing.T) {
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
	l := New(nopCloser{&buf})
	writeIDs(t, l, "a", "b", "c", "d", "e", "f", "g", "h")
	closeLog(t, l)
	tests := []struct {
		name   string
		change func([]string) []string
		want   []string
	}{
		{"nothing", func(l []string) []string { return l }, nil},
		{"an event", replace(3, `"c"`, `"x"`), []string{"log:3: modified"}},
		{"the first event", replace(1, `"a"`, `"x"`), []string{"log:1: modified"}},
		{"the last event", replace(8, `"h"`, `"x"`), []string{"log:8: modified"}},
		{"a chain value", func(l []string) []string {
			i := len(l[2]) - 3
			l[2] = l[2][:i] + map[bool]string{true: "1", false: "0"}[l[2][i] == '0'] + `"}`
			return l
		}, []string{"log:3: modified"}},
		{"a number, up", replace(3, `"seq":3`, `"seq":5`), []string{"log:3: modified"}},
		{"a number, down", replace(3, `"seq":3`, `"seq":1`), []string{"log:3: modified"}},
		{"a line's form", replace(3, `"seq":`, `"sec":`), []string{"log:3: modified"}},
		{"a line removed", func(l []string) []string { return slices.Delete(l, 2, 3) }, []string{"log:3: removed"}},
		{"three lines removed", func(l []string) []string { return slices.Delete(l, 2, 5) }, []string{"log:3: removed"}},
		{"the first line removed", func(l []string) []string { return l[1:] }, []string{"log:1: removed"}},
		{"a line twice", func(l []string) []string { return slices.Insert(l, 3, l[2]) }, []string{"log:4: inserted"}},
		{"an old line again", func(l []string) []string { return slices.Insert(l, 5, l[2]) }, []string{"log:6: inserted"}},
		{"a forged line", func(l []string) []string { return slices.Insert(l, 2, strings.Replace(l[2], `"c"`, `"x"`, 1)) }, []string{"log:3: inserted"}},
		{"a line of no log", func(l []string) []string { return slices.Insert(l, 2, `{"outcome":"served"}`) }, []string{"log:3: inserted"}},
		{"an empty line", func(l []string) []string { return slices.Insert(l, 2, "") }, []string{"log:3: inserted"}},
		{"a line of no log at the end", func(l []string) []string { return append(l, `{"outcome":"served"}`) }, []string{"log:9: inserted"}},
		{"two swapped", func(l []string) []string { l[2], l[3] = l[3], l[2]; return l }, []string{"log:4: reordered"}},
		{"one moved down", func(l []string) []string { return slices.Concat(l[:2], l[3:6], l[2:3], l[6:]) }, []string{"log:6: reordered"}},
		{"two moved down", func(l []string) []string { return slices.Concat(l[:2], l[4:7], l[2:4], l[7:]) }, []string{"log:6: reordered", "log:7: reordered"}},
		{"the end cut", func(l []string) []string { l[7] = l[7][:20]; return l }, []string{"log:8: torn"}},
		{"a very long line", func(l []string) []string { return slices.Insert(l, 2, strings.Repeat("x", 3*maxLine)) }, []string{"log:3: inserted"}},
		{"two changes", func(l []string) []string { return slices.Delete(replace(2, `"b"`, `"x"`)(l), 4, 5) }, []string{"log:2: modified", "log:5: removed"}},
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
			if got := found(r); !slices.Equal(got, tt.want) {
				t.Errorf("found %q, want %q", r.Findings, tt.want)
			}
		})
	}
}

type nopCloser struct{ *bytes.Buffer }

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
		heads []Head
		files []string
		want  []string
	}{
		{"the other way round", nil, []string{files[1], files[0]}, []string{"audit.jsonl:1: note", "audit.jsonl.1:1: gap"}},
		{"the end of a file is missing", nil, []string{cut, files[1]}, []string{"audit.jsonl:1: gap"}},
		{"another log", nil, []string{files[0], other[0]}, []string{"audit.jsonl.1:1: gap"}},
		{"the last file is missing", []Head{head}, files[:1], []string{"audit.jsonl.1:8: head"}},
		{"another head", []Head{wrong}, files, []string{"audit.jsonl:4: head"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := verify(t, VerifyConfig{Heads: tt.heads}, tt.files...)
			got := slices.DeleteFunc(found(r), func(s string) bool { return s == "audit.jsonl.1:5: note" })
			if !slices.Equal(got, tt.want) {
				t.Errorf("found %q, want %q", r.Findings, tt.want)
			}
		})
	}
	if _, err := Verify(t.Context(), VerifyConfig{}, []string{filepath.Join(t.TempDir(), "none")}); err == nil {
		t.Error("a file that is not there was read")
	}
}

// TestVerifyKeys: who does not have the key cannot make a chain that passes for
// one with it.
func TestVerifyKeys(t *testing.T) {
	key, other := testKey(t, "k"), testKey(t, "o")
	keyed, _ := writeSample(t, key)
	plain, _ := writeSample(t, nil)
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	for _, k := range []*Key{nil, key, other, nil} { // the key is introduced, changed, and given up
		l := open(t, Config{Path: path, Key: k})
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
		keys  []*Key
		files []string
		want  []string
	}{
		{"no key at hand", nil, keyed, []string{"audit.jsonl.1:1: unkeyed", "audit.jsonl.1:6: unkeyed", "audit.jsonl:1: unkeyed"}},
		{"another key", []*Key{other}, keyed, []string{"audit.jsonl.1:1: unkeyed", "audit.jsonl.1:6: unkeyed", "audit.jsonl:1: unkeyed"}},
		{"computed anew without the key", []*Key{key}, plain, []string{"audit.jsonl:4: unkeyed"}},
		{"key introduced and changed", []*Key{key, other}, []string{introduced}, nil},
		{"key given up", []*Key{key, other}, []string{path}, []string{"audit.jsonl:10: unkeyed"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := verify(t, VerifyConfig{Keys: tt.keys}, tt.files...)
			got := slices.DeleteFunc(found(r), func(s string) bool { return strings.HasSuffix(s, ": note") })
			if !slices.Equal(got, tt.want) {
				t.Errorf("found %q, want %q", r.Findings, tt.want)
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
	f.Add([]byte(`{"marker":"opened","unchained_bytes":1,"seq":1,"chain":"` + strings.Repeat("0", 64) + `"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		v := newVerifier(VerifyConfig{Heads: []Head{head}})
		if err := scanLines(t.Context(), "f", bytes.NewReader(data), v.line); err != nil {
			return // compressed, and badly so
		}
		v.finish()
		// Its end, from a marker on, is in order by itself.
		intact := bytes.HasSuffix(bytes.TrimSuffix(all, []byte("\n")), bytes.TrimSuffix(data, []byte("\n")))
		if !intact && !bytes.HasPrefix(data, []byte{0x1f, 0x8b}) && v.report.Faults() == 0 {
			t.Errorf("no fault in %q", data)
		}
	})
}
