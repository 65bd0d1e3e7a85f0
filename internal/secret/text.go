package secret

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// checkText rejects characters that no reference may contain: control characters
// and invalid UTF-8. fault names the first one and its position, and is empty if
// there is none. Control characters include U+0080 to U+009F, which control a
// terminal in the same way as the ASCII ones.
func checkText(s string) (fault string) {
	if isPrintable(s) { // fast path
		return ""
	}
	return checkRunes(s)
}

// isPrintable reports whether all bytes of s are printable ASCII, ' ' to '~'.
func isPrintable(s string) bool {
	// Check eight bytes at a time. Each byte that is not printable has its highest
	// bit set in one of three terms: in x if it is not ASCII, in the sum if it is
	// DEL, in the difference if it is less than ' '. A printable byte has it set in
	// none, unless a carry or a borrow from the next lower byte changes the byte; but
	// only a byte that is not printable causes one, and then the result is false
	// anyway.
	for ; len(s) >= 8; s = s[8:] {
		b := s[:8]
		x := uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 |
			uint64(b[4])<<32 | uint64(b[5])<<40 | uint64(b[6])<<48 | uint64(b[7])<<56
		if (x|(x+0x0101010101010101)|(x-0x2020202020202020))&0x8080808080808080 != 0 {
			return false
		}
	}
	for i := range len(s) {
		if s[i] < ' ' || '~' < s[i] {
			return false
		}
	}
	return true
}

// checkRunes is the slow path of checkText: it examines one character at a time.
func checkRunes(s string) (fault string) {
	for i, r := range s {
		if unicode.IsControl(r) {
			return fmt.Sprintf("there is a control character at byte %d", i+1)
		}
		if r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD") {
			return fmt.Sprintf("byte %d is not valid UTF-8", i+1)
		}
	}
	return ""
}

// isDigits reports whether s consists of digits.
func isDigits(s string) bool {
	for i := range len(s) {
		if !isDigit(s[i]) {
			return false
		}
	}
	return true
}
