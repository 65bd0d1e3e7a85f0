package secret

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// checkText refuses what no reference may contain anywhere; fault says what and
// where, or nothing. Control characters include those of U+0080 to U+009F,
// which move a terminal's cursor as well as the ASCII ones do.
func checkText(s string) (fault string) {
	if isPrintable(s) { // as nearly all are
		return ""
	}
	return checkRunes(s)
}

// isPrintable reports whether all bytes of s are from ' ' to '~'.
func isPrintable(s string) bool {
	// Eight bytes at a time. A byte that is not has its highest bit set in one of
	// the three terms: in x if it is beyond ASCII, in the sum if it is DEL, in the
	// difference if it is less than ' '. A byte that is has not: a carry or a borrow
	// from its neighbour, which changes it, comes only from a byte that is not.
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

// checkRunes is checkText, one character after the other.
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
