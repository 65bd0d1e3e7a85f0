package audit

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestRefuses: while the disk is full, Refuses reports true and the Log logs one line. When
// there is space again, the Log notices without any call.
func TestRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		var lines bytes.Buffer
		l := newLog("", m)
		l.logger = slog.New(slog.NewTextHandler(&lines, nil))
		go l.run()
		write := func() error { return l.Write(t.Context(), []Event{{RequestID: "r"}}) }
		if err := write(); err != nil || l.Refuses() {
			t.Fatalf("%v, refuses: %v", err, l.Refuses())
		}
		full := errors.New("no space left on device")
		m.fail(full)
		for range 1000 {
			if err := write(); !errors.Is(err, full) || !l.Refuses() {
				t.Fatalf("%v, refuses: %v", err, l.Refuses())
			}
		}
		time.Sleep(time.Hour)
		if !l.Refuses() {
			t.Error("it does not refuse although the disk is still full")
		}
		m.fail(nil)
		time.Sleep(maxProbe)
		synctest.Wait()
		if l.Refuses() {
			t.Error("it refuses although there is space")
		}
		if n := strings.Count(lines.String(), "\n"); n != 2 {
			t.Errorf("%d lines in the log:\n%s", n, lines.String())
		}
		if err := write(); err != nil {
			t.Error(err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if !l.Refuses() {
			t.Error("a closed log does not refuse")
		}
		if r := verifyText(t, l.Head(), m.buf.String()); r.Break != "" || r.Records != 3 { // one of them is the segment header "resumed"
			t.Errorf("%+v", r)
		}
	})
}

// TestRefusesWhenStuck: Refuses reports a write that does not return, too, with one log line.
func TestRefusesWhenStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		var lines bytes.Buffer
		l := newLog("", g)
		l.logger = slog.New(slog.NewTextHandler(&lines, nil))
		go l.run()
		for range 3 {
			if err := <-write(t.Context(), l, "r"); !errors.Is(err, errSlow) {
				t.Error(err)
			}
		}
		if !l.Refuses() {
			t.Error("it does not refuse")
		}
		for range 2 {
			g.let <- allowance{everything, nil}
		}
		synctest.Wait()
		if l.Refuses() {
			t.Error("it still refuses")
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if n := strings.Count(lines.String(), "\n"); n != 2 {
			t.Errorf("%d lines in the log:\n%s", n, lines.String())
		}
	})
}
