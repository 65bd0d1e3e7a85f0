package secret

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"
)

func TestDecodeBase64(t *testing.T) {
	tests := []struct {
		name, in, want string
		fails          bool
	}{
		{name: "padded", in: "AP8QgA==", want: "\x00\xff\x10\x80"},
		{name: "not padded", in: "AP8QgA", want: "\x00\xff\x10\x80"},
		{name: "URL-safe", in: "-_-_", want: "\xfb\xff\xbf"},
		{name: "standard", in: "+/+/", want: "\xfb\xff\xbf"},
		{name: "broken into lines", in: " AP8Q\r\n\tgA==\n", want: "\x00\xff\x10\x80"},
		{name: "empty", in: "", want: ""},
		{name: "text that is none", in: "canary-password!", fails: true},
		{name: "one letter", in: "A", fails: true},
		{name: "padding inside", in: "AP==8QgA", fails: true},
		{name: "bits left over", in: "AP9=", fails: true},
		{name: "not ASCII", in: "AP8Qé", fails: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v, err := DecodeBase64.Apply(NewValue([]byte(tt.in)))
			if tt.fails {
				e := AsError(err)
				if err == nil || e.Reason != ReasonSecretNotDecodable || strings.Contains(e.Error(), "canary") {
					t.Errorf("got %q, %v", v.RevealBytes(), err)
				}
				return
			}
			if err != nil || string(v.RevealBytes()) != tt.want {
				t.Errorf("got %q, %v", v.RevealBytes(), err)
			}
		})
	}
}

func FuzzDecodeBase64(f *testing.F) {
	f.Add([]byte("\x00\xff"), "AP8QgA==")
	f.Fuzz(func(t *testing.T, raw []byte, text string) {
		for _, enc := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
			v, err := DecodeBase64.Apply(NewValue([]byte(enc.EncodeToString(raw))))
			if err != nil || !bytes.Equal(v.RevealBytes(), raw) {
				t.Errorf("%x came back as %x, %v", raw, v.RevealBytes(), err)
			}
		}
		_, _ = DecodeBase64.Apply(NewValue([]byte(text))) // must not panic
	})
}
