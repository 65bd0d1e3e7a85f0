package secret

import (
	"fmt"
	"testing"
)

// Every byte at every position of texts that are shorter and longer than one word,
// surrounded by the lowest and the highest bytes that are printable.
func TestCheckText(t *testing.T) {
	for n := range 18 {
		for _, filler := range []byte{' ', 'a', '~'} {
			text := make([]byte, n)
			for i := range text {
				text[i] = filler
			}
			for i := range text {
				for c := range 256 {
					text[i] = byte(c)
					want := ""
					switch {
					case c < ' ', c == 0x7F:
						want = fmt.Sprintf("there is a control character at byte %d", i+1)
					case c > 0x7F:
						want = fmt.Sprintf("byte %d is not valid UTF-8", i+1)
					}
					if got := checkText(string(text)); got != want {
						t.Errorf("checkText(%q) = %q, want %q", text, got, want)
					}
				}
				text[i] = filler
			}
		}
	}
}
