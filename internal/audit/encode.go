package audit

import (
	"bytes"
	"encoding/json"
	"strconv"
	"time"
)

// appendEvents appends a line for every event.
func appendEvents(b []byte, events []Event) ([]byte, error) {
	var err error
	for i := range events {
		if b, err = appendEvent(b, &events[i]); err != nil {
			return b, err
		}
		b = append(b, '\n')
	}
	return b, nil
}

// appendEvent appends the event as a JSON object, exactly as encoding/json would
// with the tags of Event. It is written by hand because every answer waits for
// it: reflection takes five times as long.
func appendEvent(b []byte, e *Event) ([]byte, error) {
	b = append(b, `{"time":"`...)
	b = e.Time.AppendFormat(b, time.RFC3339Nano)
	b = append(b, '"')
	var err error
	text := func(name, value string) {
		if err == nil {
			b = append(b, name...)
			b, err = appendText(b, value)
		}
	}
	optional := func(name, value string) {
		if value != "" {
			text(name, value)
		}
	}
	text(`,"request_id":`, e.RequestID)
	text(`,"method":`, e.Method)
	text(`,"principal":`, string(e.Principal))
	optional(`,"peer_address":`, e.PeerAddress)
	optional(`,"certificate_serial":`, e.CertificateSerial)
	optional(`,"integration":`, e.Integration)
	optional(`,"subject":`, string(e.Subject))
	optional(`,"connector":`, e.Connector)
	optional(`,"config":`, e.Config)
	optional(`,"reference":`, e.Reference)
	text(`,"outcome":`, string(e.Outcome))
	optional(`,"reason":`, string(e.Reason))
	if e.Grant != nil && err == nil {
		b = strconv.AppendInt(append(b, `,"grant":`...), int64(*e.Grant), 10)
	}
	optional(`,"version":`, e.Version)
	optional(`,"source":`, e.Source)
	if e.Change != nil && err == nil {
		b, err = appendJSON(append(b, `,"change":`...), e.Change)
	}
	optional(`,"note":`, e.Note)
	return append(b, '}'), err
}

// appendText appends s as a JSON string.
func appendText(b []byte, s string) ([]byte, error) {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return appendJSON(b, s)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"'), nil
}

// appendJSON appends v as encoding/json writes it.
func appendJSON(b []byte, v any) ([]byte, error) {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return b, err
	}
	return append(b, bytes.TrimSuffix(text.Bytes(), []byte{'\n'})...), nil
}
