package audit

import (
	"bytes"
	"encoding/json"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit/chain"
)

// recordStart begins every record, before the text of its type.
const recordStart = `{"v":` + chain.Version + `,"type":`

// appendEvents appends a line for every event. It encodes the fields that the events of
// one call share only once.
func appendEvents(b []byte, events []Event) ([]byte, error) {
	var err error
	var start, end int // of the shared fields of the previous event in b
	var before *Event
	for i := range events {
		e := &events[i]
		if before != nil && sameCall(e, before) {
			from := len(b)
			b = append(b, b[start:end]...)
			start, end = from, len(b)
		} else {
			start = len(b)
			if b, err = appendCall(b, e); err != nil {
				return b, err
			}
			end = len(b)
		}
		if b, err = appendOutcome(b, e); err != nil {
			return b, err
		}
		b, before = append(b, '\n'), e
	}
	return b, nil
}

// appendEvent appends the event as a JSON object, byte for byte as encoding/json would with
// the tags of Event, after the member v. It does not use encoding/json because every answer waits for it:
// reflection takes five times as long.
func appendEvent(b []byte, e *Event) ([]byte, error) {
	b, err := appendCall(b, e)
	if err != nil {
		return b, err
	}
	return appendOutcome(b, e)
}

// sameCall reports whether appendCall encodes a and b alike.
func sameCall(a, b *Event) bool {
	return a.Type == b.Type && a.Time.Equal(b.Time) && a.Time.Location() == b.Time.Location() && a.RequestID == b.RequestID && a.Method == b.Method &&
		a.Principal == b.Principal && a.PeerAddress == b.PeerAddress && a.CertificateSHA256 == b.CertificateSHA256 && a.CertificateSerial == b.CertificateSerial &&
		a.IntegrationID == b.IntegrationID && a.IntegrationRevision == b.IntegrationRevision && a.Subject == b.Subject && a.Connector == b.Connector
}

// appendCall begins an event's object with the fields that all events of a call share.
func appendCall(b []byte, e *Event) ([]byte, error) {
	f := fields{b: b}
	f.text(recordStart, string(e.Type))
	f.b = append(f.b, `,"time":"`...)
	f.b = append(e.Time.AppendFormat(f.b, time.RFC3339Nano), '"')
	f.optional(`,"request_id":`, e.RequestID)
	f.optional(`,"method":`, e.Method)
	f.text(`,"principal":`, string(e.Principal))
	f.optional(`,"peer_address":`, e.PeerAddress)
	f.optional(`,"certificate_sha256":`, e.CertificateSHA256)
	f.optional(`,"certificate_serial":`, e.CertificateSerial)
	f.optional(`,"integration_id":`, e.IntegrationID)
	f.optional(`,"integration_revision":`, e.IntegrationRevision)
	f.optional(`,"subject":`, string(e.Subject))
	f.optional(`,"connector":`, e.Connector)
	return f.b, f.err
}

// appendOutcome ends the object with the fields of the single event.
func appendOutcome(b []byte, e *Event) ([]byte, error) {
	f := fields{b: b}
	f.optional(`,"config":`, e.Config)
	f.optional(`,"reference":`, e.Reference)
	f.optional(`,"store":`, e.Store)
	f.optional(`,"secret":`, e.Secret)
	f.optional(`,"json_key":`, e.JSONKey)
	f.text(`,"outcome":`, string(e.Outcome))
	f.optional(`,"reason":`, string(e.Reason))
	f.optional(`,"grant_id":`, e.GrantID)
	f.optional(`,"version":`, e.Version)
	f.optional(`,"source":`, e.Source)
	if e.Change != nil && f.err == nil {
		f.b, f.err = appendJSON(append(f.b, `,"change":`...), e.Change)
	}
	if e.Count != nil && f.err == nil {
		f.b, f.err = appendJSON(append(f.b, `,"count":`...), e.Count)
	}
	if e.Watched != nil && f.err == nil {
		f.b, f.err = appendJSON(append(f.b, `,"watched":`...), e.Watched)
	}
	f.optional(`,"note":`, e.Note)
	return append(f.b, '}'), f.err
}

// fields appends an object's members until the first error.
type fields struct {
	b   []byte
	err error
}

// text appends a member. name includes the comma before it, the quotes and the colon.
func (f *fields) text(name, value string) {
	f.b = append(f.b, name...)
	if !isPlain(value) {
		if f.err == nil {
			f.b, f.err = appendJSON(f.b, value)
		}
		return
	}
	f.b = append(f.b, '"')
	f.b = append(f.b, value...)
	f.b = append(f.b, '"')
}

func (f *fields) optional(name, value string) {
	if value != "" {
		f.text(name, value)
	}
}

// isPlain reports whether s needs no escaping in a JSON string: it has only the bytes ' ' to
// '~' without quote and backslash.
//
// It tests eight bytes at a time, which makes encoding twice as fast. If a byte is not
// plain, at least one of the five terms sets the highest bit of that byte. They carry
// into or borrow from the next byte only after such a byte, so the bit is never set if all
// eight bytes are plain.
func isPlain(s string) bool {
	const (
		each  = 0x0101010101010101
		highs = 0x80 * each
	)
	for ; len(s) >= 8; s = s[8:] {
		w := uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
			uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56 // one load
		if (w|(w-' '*each)|(w+each)|((w^'"'*each)-each)|((w^'\\'*each)-each))&highs != 0 {
			return false
		}
	}
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// appendJSON appends v as encoding/json encodes it, without HTML escaping.
func appendJSON(b []byte, v any) ([]byte, error) {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return b, err
	}
	return append(b, bytes.TrimSuffix(text.Bytes(), []byte{'\n'})...), nil
}
