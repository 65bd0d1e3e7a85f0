package client_test

import (
	"bytes"
	"context"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/client"
	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// TestValueIsUnprintable: the output never contains the secret, however a Value or something
// that contains it is printed; only Reveal and Bytes return it.
func TestValueIsUnprintable(t *testing.T) {
	t.Parallel()
	const text = "hunter2-tops3cret"
	s := newSetup(t, func(context.Context, *secretbrokerv1.ResolveRequest) (*secretbrokerv1.ResolveResponse, error) {
		return &secretbrokerv1.ResolveResponse{Configs: map[string]*secretbrokerv1.ResolvedConfig{"a": {Value: text, DecodedValue: []byte(text)}}}, nil
	})
	c, _ := s.client(t)
	res, err := c.Resolve(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	v := res.Values["a"]
	if v.Reveal() != text {
		t.Fatal("Reveal does not return the secret")
	}
	if string(v.Bytes()) != text {
		t.Fatal("Bytes does not return the secret")
	}

	holders := map[string]any{
		"value": v, "pointer": &v, "response": *res, "response pointer": res, "map": res.Values,
		"exported field":   struct{ V client.Value }{v},
		"unexported field": struct{ v client.Value }{v},
		"slice":            []any{v},
	}
	leaks := func(how, out string) {
		t.Helper()
		// %x and %d print bytes in other forms.
		decimal := strings.Trim(fmt.Sprintf("%d", []byte(text)), "[]")
		for _, form := range []string{text, fmt.Sprintf("%x", text), fmt.Sprintf("%X", text), decimal} {
			if strings.Contains(out, form) {
				t.Errorf("%s shows the secret", how)
			}
		}
	}
	for name, h := range holders {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%t"} {
			leaks(name+" with "+verb, fmt.Sprintf(verb, h))
		}
		b, err := json.Marshal(h)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		leaks(name+" as JSON", string(b))
		for kind, handler := range map[string]func(*bytes.Buffer) slog.Handler{
			"text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
			"JSON": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
		} {
			var buf bytes.Buffer
			slog.New(handler(&buf)).Info("x", "v", h)
			leaks(name+" in slog "+kind, buf.String())
		}
	}
	var buf bytes.Buffer
	_ = xml.NewEncoder(&buf).Encode(v)
	_ = gob.NewEncoder(&buf).Encode(v)
	leaks("XML and gob", buf.String())

	// The output shows that something was left out.
	for how, out := range map[string]string{
		"%v": fmt.Sprintf("%v", v), "%+v": fmt.Sprintf("%+v", v), "%#v": fmt.Sprintf("%#v", v), "%s": v.String(),
	} {
		if out != "[REDACTED]" {
			t.Errorf("%s prints %q", how, out)
		}
	}
	if b, _ := json.Marshal(v); string(b) != `"[REDACTED]"` {
		t.Errorf("JSON is %s", b)
	}
	if (client.Value{}).Reveal() != "" || (client.Value{}).Bytes() != nil || (client.Value{}).String() != "[REDACTED]" {
		t.Error("the zero Value is not empty")
	}
}

// TestValueBytes: bytes that are not text are returned unchanged, each time as a new copy.
func TestValueBytes(t *testing.T) {
	t.Parallel()
	const keystore = "\xfe\xed\xfe\xed\x00\x00"
	s := newSetup(t, func(context.Context, *secretbrokerv1.ResolveRequest) (*secretbrokerv1.ResolveResponse, error) {
		return &secretbrokerv1.ResolveResponse{Configs: map[string]*secretbrokerv1.ResolvedConfig{
			"keystore": {DecodedValue: []byte(keystore)},
			"password": {Value: "hunter2"},
		}}, nil
	})
	c, _ := s.client(t)
	res, err := c.Resolve(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	v := res.Values["keystore"]
	if v.Reveal() != "" || string(v.Bytes()) != keystore {
		t.Errorf("got %q and %x", v.Reveal(), v.Bytes())
	}
	clear(v.Bytes())
	if string(v.Bytes()) != keystore {
		t.Error("Bytes did not return a copy")
	}
	if b := res.Values["password"].Bytes(); b != nil {
		t.Errorf("a value that was not decoded has the bytes %x", b)
	}
}

// Values that a test makes are like those of a broker, and do not share memory with it.
func TestNewValue(t *testing.T) {
	t.Parallel()
	if v := client.NewValue("hunter2"); v.Reveal() != "hunter2" || v.Bytes() != nil || v.String() == "hunter2" {
		t.Errorf("%q, %q, printed %v", v.Reveal(), v.Bytes(), v)
	}
	text, binary := []byte("text"), []byte{0xff, 0}
	if v := client.NewDecodedValue(text); v.Reveal() != "text" || string(v.Bytes()) != "text" || string(text) != "text" {
		t.Errorf("%q, %q; the argument is now %q", v.Reveal(), v.Bytes(), text)
	}
	if v := client.NewDecodedValue(binary); v.Reveal() != "" || !bytes.Equal(v.Bytes(), []byte{0xff, 0}) {
		t.Errorf("%q, %q", v.Reveal(), v.Bytes())
	}
}
