// Package audit keeps the record of who was given, or refused, which secret.
//
// A record is written before any value leaves: if it cannot be written, the
// value does not leave either. The package never receives a secret's value, and
// knows neither gRPC nor stores.
package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Outcome is what came of one config of a call.
type Outcome string

// The outcomes.
const (
	// Served: the value left the broker.
	Served Outcome = "served"
	// Withheld: the value could have been served, but the call failed for
	// another config of it.
	Withheld Outcome = "withheld"
	// Checked: the value was looked at for a report and did not leave.
	Checked Outcome = "checked"
	// Answered: an auditor's question about grants was answered.
	Answered Outcome = "answered"
	// Denied: the caller may not read the secret.
	Denied Outcome = "denied"
	// Failed: the caller may read the secret, but there is no value.
	Failed Outcome = "failed"
	// Rejected: the request was malformed; nothing was decided.
	Rejected Outcome = "rejected"
)

// Event is the record of one decision: one config of one call. The JSON names
// are a promise to whoever parses the log.
type Event struct {
	Time      time.Time       `json:"time"`
	RequestID string          `json:"request_id"`
	Method    string          `json:"method"`
	Principal authz.Principal `json:"principal"`
	// PeerAddress and CertificateSerial (hexadecimal) tell apart the instances
	// that share a Principal.
	PeerAddress       string `json:"peer_address,omitempty"`
	CertificateSerial string `json:"certificate_serial,omitempty"`
	Integration       string `json:"integration,omitempty"`
	// Connector is the caller's claim and proves nothing.
	Connector string `json:"connector,omitempty"`
	Config    string `json:"config,omitempty"`
	// Reference is canonical; it is empty when the config was not a reference,
	// since what stood there may have been a password.
	Reference string        `json:"reference,omitempty"`
	Outcome   Outcome       `json:"outcome"`
	Reason    secret.Reason `json:"reason,omitempty"`
	// Grant is the index of the integration's grant that allowed the read.
	Grant *int `json:"grant,omitempty"`
	// Version is the store's version identifier of what was read.
	Version string `json:"version,omitempty"`
	// Source says where the value came from: hit, miss, shared or stale.
	Source string `json:"source,omitempty"`
}

// Stdout is the file name that stands for standard output.
const Stdout = "stdout"

// Log writes events as JSON lines. It is safe for concurrent use; the lines of
// one Write stand together. A line is handed to the operating system before
// Write returns; it is not forced to the disk.
type Log struct {
	path string

	mu sync.Mutex
	w  io.Writer
	// torn says that the last write ended within a line.
	torn bool
	buf  bytes.Buffer
}

// Open opens the log for appending, creating it readable to its owner only.
func Open(path string) (*Log, error) {
	l := &Log{path: path}
	if path == Stdout {
		l.w = os.Stdout
		return l, nil
	}
	return l, l.Reopen()
}

// New returns a Log that writes to w.
func New(w io.Writer) *Log { return &Log{w: w} }

// Reopen opens the file anew, after it was moved away by log rotation. On error
// the old file stays in use.
func (l *Log) Reopen() error {
	if l.path == "" || l.path == Stdout {
		return nil
	}
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open the audit log: %w", err)
	}
	l.mu.Lock()
	old := l.w
	l.w, l.torn = f, endsWithinLine(f.Name())
	l.mu.Unlock()
	if c, ok := old.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// Write appends the events. On error none of them may be taken as recorded.
func (l *Log) Write(events []Event) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.w == nil {
		return errors.New("the audit log is closed")
	}
	l.buf.Reset()
	if l.torn {
		l.buf.WriteByte('\n')
	}
	enc := json.NewEncoder(&l.buf)
	enc.SetEscapeHTML(false)
	for i := range events {
		if err := enc.Encode(&events[i]); err != nil {
			return fmt.Errorf("encode an audit event: %w", err)
		}
	}
	n, err := l.w.Write(l.buf.Bytes())
	if n > 0 {
		l.torn = l.buf.Bytes()[n-1] != '\n'
	}
	if err != nil {
		return fmt.Errorf("write the audit log: %w", err)
	}
	return nil
}

// Close closes the file. Every later Write fails.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.w
	l.w = nil
	if c, ok := w.(io.Closer); ok && l.path != Stdout {
		return c.Close()
	}
	return nil
}

// endsWithinLine reports whether a crash or a full disk left the file without a
// final newline, so that the next record does not run into a torn one.
func endsWithinLine(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	end, err := f.Seek(-1, io.SeekEnd)
	if err != nil || end < 0 {
		return false
	}
	last := make([]byte, 1)
	_, err = f.Read(last)
	return err == nil && last[0] != '\n'
}
