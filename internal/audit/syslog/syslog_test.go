package syslog

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestParse(t *testing.T) {
	for _, s := range []string{"unix:///dev/log", "udp://logs.example.org:514", "tcp://[2001:db8::1]:601", "tls://logs.example.org:6514"} {
		to, err := Parse(s)
		if err != nil || to.String() != s {
			t.Errorf("%s: %v, %v", s, to, err)
		}
	}
	if to, err := Parse("tls://logs.example.org:6514"); err != nil || to.TLS.ServerName != "logs.example.org" || to.TLS.InsecureSkipVerify {
		t.Errorf("tls: %+v, %v", to.TLS, err)
	}
	for _, s := range []string{
		"", "/dev/log", "unix://dev/log", "unix:///", "udp://logs.example.org", "tcp://:514", "tcp://h:0", "tcp://h:70000", "http://h:1",
		"tls://user@h:1", "tls://h:1/path", "tls://h:1?x=y", "tcp:h:1", "tcp://h:1#x",
	} {
		if to, err := Parse(s); err == nil {
			t.Errorf("%s: %v", s, to)
		}
	}
}

// TestCopyQueue: a collector that is down does not block Take. The Copier counts the lines
// that do not fit into its queue.
func TestCopyQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		c := NewCopier(Copy{Collector: Collector{Network: "unixgram", Address: "/nonexistent/socket"}}, slog.New(slog.NewTextHandler(&log, nil)))
		line := append(make([]byte, 1<<20), '\n')
		for range 20 {
			if err := c.Take(line); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		s := c.Stats()
		if s.Sent != 0 || s.QueueBytes > maxCopyQueue || s.Dropped != 20-1-maxCopyQueue>>20 {
			t.Errorf("%+v", s)
		}
		if p := c.Problem(); !strings.Contains(p, "unix:///nonexistent/socket") {
			t.Errorf("problem %q", p)
		}
		time.Sleep(10 * time.Minute) // it keeps trying and logs one line
		start := time.Now()
		c.Close(time.Second)
		if took := time.Since(start); took > time.Second {
			t.Errorf("took %v", took)
		}
		c.Close(time.Second)
		if s := c.Stats(); s.Dropped != 20 || s.QueueBytes != 0 {
			t.Errorf("%+v", s)
		}
		if n := strings.Count(log.String(), "cannot be sent"); n != 1 {
			t.Errorf("logged %d times", n)
		}
		if err := c.Take(line); err != nil || c.Stats().Dropped != 21 {
			t.Error("a closed copy accepted a record")
		}
	})
}

func TestMessageID(t *testing.T) {
	for line, want := range map[string]string{
		`{"v":1,"type":"access","time":"x"}`: "access",
		`{"v":1,"type":"","time":"x"}`:       "audit",
		`{"v":1,"type":"a b","time":"x"}`:    "audit",
		`{"v":1,"type":"access`:              "audit",
		`{"v":1}`:                            "audit",
		``:                                   "audit",
		`{"v":1,"note":"` + strings.Repeat("x", 50) + `","type":"access"}`: "audit",
	} {
		if got := string(messageID([]byte(line))); got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
	message := string(header{"<110>1 ", " host secretbroker 1 "}.message(time.Unix(0, 0), []byte(`{"v":1,"type":"access"}`)))
	if want := `<110>1 1970-01-01T00:00:00.000000Z host secretbroker 1 access - {"v":1,"type":"access"}`; message != want {
		t.Errorf("got %s", message)
	}
}
