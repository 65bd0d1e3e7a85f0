package audit

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit/chain"
)

// gate is a writer whose writes wait for the test, in a synctest bubble.
type gate struct {
	strings.Builder
	writes int
	let    chan allowance
}

// allowance is how many bytes a write accepts, and its error.
type allowance struct {
	bytes int
	err   error
}

const everything = 1 << 30

func newGate() *gate { return &gate{let: make(chan allowance)} }

func (g *gate) Write(p []byte) (int, error) {
	a := <-g.let
	g.writes++
	n, _ := g.Builder.Write(p[:min(a.bytes, len(p))])
	return n, a.err
}

// lines returns the request IDs of the whole lines, and the torn lines.
func (g *gate) lines() (ids, torn []string) {
	for _, line := range strings.Split(strings.TrimSuffix(g.String(), "\n"), "\n") {
		var e Event
		if json.Unmarshal([]byte(line), &e) != nil {
			torn = append(torn, line)
			continue
		}
		if !chain.IsSegmentHeader([]byte(line)) {
			ids = append(ids, e.RequestID)
		}
	}
	return ids, torn
}

// write starts a Write and waits until it is queued.
func write(ctx context.Context, l *Log, id string) <-chan error {
	done := make(chan error, 1)
	go func() { done <- l.Write(ctx, []Event{{RequestID: id}}) }()
	synctest.Wait()
	return done
}

// TestGroupCommit: Writes that are queued during a commit share the next one, in order.
func TestGroupCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		l := New(g)
		want := "abcdefghijklmnopqrstuvwxyz"
		var writes []<-chan error
		for _, id := range want {
			writes = append(writes, write(t.Context(), l, string(id)))
		}
		g.let <- allowance{everything, nil}
		synctest.Wait()
		if err := <-writes[0]; err != nil || len(writes[1]) != 0 {
			t.Errorf("the first write: %v, the second has ended: %v", err, len(writes[1]) != 0)
		}
		g.let <- allowance{everything, nil}
		for _, done := range writes[1:] {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		ids, torn := g.lines()
		if got := strings.Join(ids, ""); g.writes != 2 || got != want || torn != nil {
			t.Errorf("%d writes, %s, torn %q", g.writes, got, torn)
		}
	})
}

// TestPartOfABatch: a write that fails halfway fails exactly the Writes whose lines are
// incomplete.
func TestPartOfABatch(t *testing.T) {
	line := len(`{"v":1,"type":"","time":"0001-01-01T00:00:00Z","request_id":"b","principal":"","outcome":"","seq":1,"chain":"` + strings.Repeat("0", 64) + "\"}\n")
	broken := errors.New("no space left on device")
	tests := []struct {
		name     string
		write    allowance
		recorded string // of b, c and d
		torn     int
	}{
		{"nothing", allowance{0, broken}, "", 0},
		{"half a line", allowance{line / 2, broken}, "", 1},
		{"all but a newline", allowance{line - 1, broken}, "", 0}, // the record is complete, but its Write fails
		{"a line", allowance{line, broken}, "b", 0},
		{"a line and a half", allowance{line + line/2, broken}, "b", 1},
		{"two lines", allowance{2 * line, broken}, "bc", 0},
		{"two lines, no error", allowance{2 * line, nil}, "bc", 0},
		{"everything and an error", allowance{everything, broken}, "bcd", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGate()
				l := New(g)
				first := write(t.Context(), l, "a")
				batch := map[string]<-chan error{}
				for _, id := range []string{"b", "c", "d"} {
					batch[id] = write(t.Context(), l, id)
				}
				g.let <- allowance{everything, nil}
				g.let <- tt.write
				if err := <-first; err != nil {
					t.Error(err)
				}
				for id, done := range batch {
					err := <-done
					if (err == nil) != strings.Contains(tt.recorded, id) {
						t.Errorf("%s: %v", id, err)
					}
					if err != nil && !errors.Is(err, broken) && !errors.Is(err, io.ErrShortWrite) {
						t.Errorf("%s: %v", id, err)
					}
				}
				if l.Problem() == "" {
					t.Error("no problem")
				}
				last := write(t.Context(), l, "e")
				g.let <- allowance{everything, nil}
				if err := <-last; err != nil {
					t.Error(err)
				}
				if p := l.Problem(); p != "" {
					t.Error(p)
				}
				if err := l.Close(); err != nil {
					t.Error(err)
				}
				ids, torn := g.lines()
				if got := strings.Join(ids, ""); !strings.HasPrefix(got, "a"+tt.recorded) || !strings.HasSuffix(got, "e") || len(torn) != tt.torn {
					t.Errorf("got %s, torn %q", got, torn)
				}
			})
		})
	}
}

func TestContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		l := New(g)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		under, queued := write(ctx, l, "under way"), write(ctx, l, "queued")
		for _, done := range []<-chan error{under, queued} {
			if err := <-done; !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
		}
		if err := l.Write(ctx, []Event{{RequestID: "too late"}}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		// The events of calls that gave up are recorded when the writer continues.
		g.let <- allowance{everything, nil}
		g.let <- allowance{everything, nil}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if ids, _ := g.lines(); strings.Join(ids, ",") != "under way,queued" {
			t.Errorf("got %q", ids)
		}
	})
}

func TestFullQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		l := newLog("", g)
		l.maxBytes = 250
		go l.run()
		long := strings.Repeat("x", 1000)
		done := []<-chan error{write(t.Context(), l, long)} // longer than the queue, which is empty
		for _, id := range []string{"b", "c"} {
			done = append(done, write(t.Context(), l, id))
		}
		if p := l.Problem(); p != "" {
			t.Error(p)
		}
		if err := l.Write(t.Context(), []Event{{RequestID: "d"}}); !errors.Is(err, errFull) {
			t.Errorf("got %v", err)
		}
		if p := l.Problem(); !strings.Contains(p, "queue is full") {
			t.Errorf("problem %q", p)
		}
		g.let <- allowance{everything, nil}
		g.let <- allowance{everything, nil}
		for _, done := range done {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if p := l.Problem(); p != "" {
			t.Error(p)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if ids, _ := g.lines(); len(ids) != 3 {
			t.Errorf("got %q", ids)
		}
	})
}

// givesUp expects f to fail after patience, because the write does not return.
func givesUp(t *testing.T, f func() error) {
	t.Helper()
	start := time.Now()
	if err := f(); !errors.Is(err, errStuck) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took != patience {
		t.Errorf("took %v", took)
	}
}

func TestReopenWhenStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		path := filepath.Join(t.TempDir(), "audit.jsonl")
		l := newLog(path, g)
		l.maxWait = time.Hour // otherwise the Writes would fail at the same time
		go l.run()
		under, queued := write(t.Context(), l, "a"), write(t.Context(), l, "b")
		givesUp(t, l.Reopen)
		if p := l.Problem(); !strings.Contains(p, "does not return (for 2s so far)") {
			t.Errorf("problem %q", p)
		}
		g.let <- allowance{everything, nil}
		if err := errors.Join(<-under, <-queued, l.Close()); err != nil {
			t.Error(err)
		}
		// The writer reopened the file before it wrote the queue.
		if lines := read(t, path); len(lines) != 1 || !strings.Contains(lines[0], `"b"`) {
			t.Errorf("new file: %q", lines)
		}
	})
}

func TestCloseWhenStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		l := newLog("", g)
		l.maxWait = time.Hour // otherwise the Writes would fail at the same time
		go l.run()
		under, queued := write(t.Context(), l, "a"), write(t.Context(), l, "b")
		givesUp(t, l.Close)
		for _, done := range []<-chan error{under, queued} {
			if err := <-done; !errors.Is(err, errStuck) {
				t.Errorf("a waiting Write: %v", err)
			}
		}
		if err := l.Write(t.Context(), []Event{{}}); !errors.Is(err, errClosed) {
			t.Errorf("a later Write: %v", err)
		}
		givesUp(t, l.Close)
		g.let <- allowance{everything, nil}
		g.let <- allowance{everything, nil} // the queue is still written
		if err := l.Close(); err != nil {
			t.Errorf("Close after the write returned: %v", err)
		}
		if ids, _ := g.lines(); strings.Join(ids, "") != "ab" {
			t.Errorf("got %q", ids)
		}
	})
}

// TestStuckStdout: a collector no longer reads the standard output.
func TestStuckStdout(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	l := newLog(Stdout, w)
	l.patience = 10 * time.Millisecond
	go l.run()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Write(ctx, []Event{{Connector: strings.Repeat("x", 1<<20)}}) }()
	if _, err := r.Read(make([]byte, 1)); err != nil { // the write is in progress
		t.Fatal(err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Write: %v", err)
	}
	if err := l.Reopen(); err != nil {
		t.Errorf("Reopen: %v", err)
	}
	if err := l.Close(); !errors.Is(err, errStuck) {
		t.Errorf("Close: %v", err)
	}
	if p := l.Problem(); !strings.Contains(p, errStuck.Error()) {
		t.Errorf("problem %q", p)
	}
	if _, err := io.CopyN(io.Discard, r, 1<<20); err != nil { // the collector reads again
		t.Fatal(err)
	}
	<-l.ended
	if _, err := w.WriteString("standard output is not ours to close"); err != nil {
		t.Error(err)
	}
}

// TestCloseUnderLoad: Close keeps every recorded event, and nothing is written after it.
func TestCloseUnderLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l, err := Open(Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	var (
		writers sync.WaitGroup
		counts  [8]int
		started = make(chan struct{}, len(counts))
	)
	for i := range counts {
		writers.Go(func() {
			for {
				err := l.Write(t.Context(), []Event{{RequestID: "r"}})
				if errors.Is(err, errClosed) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				if counts[i]++; counts[i] == 1 {
					started <- struct{}{}
				}
			}
		})
	}
	for range counts {
		<-started
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	lines := read(t, path)
	writers.Wait()
	total := 0
	for _, n := range counts {
		total += n
	}
	if len(lines) != total {
		t.Errorf("%d lines, want %d", len(lines), total)
	}
	if err := l.Reopen(); !errors.Is(err, errClosed) {
		t.Errorf("Reopen: %v", err)
	}
	if p := l.Problem(); p != errClosed.Error() {
		t.Errorf("problem %q", p)
	}
}
