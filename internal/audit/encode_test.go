package audit

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// slow encodes an event with encoding/json, without HTML escaping.
func slow(t testing.TB, e *Event) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(e); err != nil {
		t.Fatal(err)
	}
	return append([]byte(`{"v":1,`), bytes.TrimSuffix(b.Bytes()[1:], []byte{'\n'})...)
}

// TestEncoding: every field, set and unset, with various texts, is encoded as encoding/json
// encodes it. The test fails for a new field of Event until appendEvent encodes it.
func TestEncoding(t *testing.T) {
	texts := []string{"", "plain", `"quoted"\`, "<html>&", "line\nbreak\t", "ключ 🔑", "bad\xffutf8", "\u2028", "\x00\x1f\x7f", "del\u0085"}
	r := rand.New(rand.NewPCG(1, 2)) // the same events each time
	for range 1500 {
		var e Event
		v := reflect.ValueOf(&e).Elem()
		for i := range v.NumField() {
			f := v.Field(i)
			switch {
			case r.IntN(3) == 0:
			case f.Kind() == reflect.String:
				f.SetString(texts[r.IntN(len(texts))])
			case f.Type() == reflect.TypeFor[*Change]():
				f.Set(reflect.ValueOf(&Change{After: json.RawMessage(`{"a":"<b>"}`), Fields: texts[:r.IntN(5)], Forced: r.IntN(2) == 0}))
			case f.Type() == reflect.TypeFor[*Count]():
				f.Set(reflect.ValueOf(&Count{Total: r.Uint64(), Since: time.Unix(r.Int64N(4e9), 0).UTC(), Reasons: map[secret.Reason]uint64{"B": 1, "A": 2}}))
			case f.Type() == reflect.TypeFor[*WatchedSet]():
				f.Set(reflect.ValueOf(NewWatchedSet(r.IntN(3), slices.Clone(texts[r.IntN(5):]))))
			case f.Type() == reflect.TypeFor[time.Time]():
				f.Set(reflect.ValueOf(time.Unix(r.Int64N(4e9), r.Int64N(1e9)/1e6*1e6).UTC()))
			default:
				t.Fatalf("add a case for fields of type %v", f.Type())
			}
		}
		got, err := appendEvent(nil, &e)
		if err != nil {
			t.Fatal(err)
		}
		if want := slow(t, &e); !bytes.Equal(got, want) {
			t.Fatalf("encoded\n%s, want\n%s", got, want)
		}
	}
}

// TestIsPlain tests every byte at every position of a text, next to various others.
func TestIsPlain(t *testing.T) {
	for c := range 256 {
		want := c >= ' ' && c <= '~' && c != '"' && c != '\\'
		for at := range 19 {
			for _, neighbour := range []byte{' ', '!', '#', '[', ']', '~', 'a'} {
				text := bytes.Repeat([]byte{neighbour}, 19)
				text[at] = byte(c)
				if got := isPlain(string(text)); got != want {
					t.Fatalf("isPlain(%q) = %v", text, got)
				}
			}
		}
	}
}

// TestEncodingOfACall: events of a call that differ in any field are encoded like single
// events.
func TestEncodingOfACall(t *testing.T) {
	at := time.Unix(1e9, 5e6).UTC()
	base := Event{Time: at, RequestID: "r", Principal: "p", Connector: "c", Config: "k"}
	events := []Event{base, base}
	v := reflect.ValueOf(&base).Elem()
	for i := range v.NumField() {
		e := base
		switch f := reflect.ValueOf(&e).Elem().Field(i); f.Kind() {
		case reflect.String:
			f.SetString("other")
		case reflect.Struct:
			e.Time = at.In(time.FixedZone("", 3600))
		default: // a pointer
			f.Set(reflect.New(f.Type().Elem()))
		}
		events = append(events, e, e, base)
	}
	got, err := appendEvents(nil, events)
	if err != nil {
		t.Fatal(err)
	}
	var want []byte
	for i := range events {
		want = append(append(want, slow(t, &events[i])...), '\n')
	}
	if !bytes.Equal(got, want) {
		t.Errorf("encoded\n%s, want\n%s", got, want)
	}
}

func BenchmarkEncode(b *testing.B) {
	e := Event{
		Type: TypeAccess, Time: time.Now().UTC(), RequestID: "0123456789abcdef0123456789abcdef", Method: "Resolve", Principal: "spiffe://example.org/connect/worker-1",
		PeerAddress: "127.0.0.1:12345", CertificateSHA256: "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", CertificateSerial: "abcdef0123456789", IntegrationID: "cspi-sqlserver", IntegrationRevision: "0123456789abcdef", Connector: "orders-cdc", Config: "connection.password",
		Reference: "https://my-vault.vault.azure.net::sqlserver-db-secret::password", Store: "https://my-vault.vault.azure.net", Secret: "sqlserver-db-secret", JSONKey: "password", Outcome: Served, GrantID: "0123456789abcdef0123456789abcdef", Version: "0123456789abcdef0123456789abcdef", Source: "hit",
	}
	b.Run("by hand", func(b *testing.B) {
		b.ReportAllocs()
		var buf []byte
		for b.Loop() {
			buf, _ = appendEvent(buf[:0], &e)
		}
	})
	b.Run("two of a call", func(b *testing.B) {
		b.ReportAllocs()
		events := []Event{e, e}
		var buf []byte
		for b.Loop() {
			buf, _ = appendEvents(buf[:0], events)
		}
	})
	b.Run("encoding json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			slow(b, &e)
		}
	})
}
