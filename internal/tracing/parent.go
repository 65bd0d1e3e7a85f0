package tracing

import "encoding/hex"

// TraceID identifies a trace; it is not all zeros.
type TraceID [16]byte

// SpanID identifies a span in a trace; it is not all zeros.
type SpanID [8]byte

// Parent is the caller's span, of which the call is a part.
type Parent struct {
	Trace TraceID
	ID    SpanID
	// Sampled reports that the caller requests a trace.
	Sampled bool
}

// ParseParent parses a traceparent of W3C Trace Context, level 1 and 2: of version 00, or the
// known part of one of a later version. It returns false for any other text: see
// https://www.w3.org/TR/trace-context/#versioning-of-traceparent.
func ParseParent(s string) (p Parent, ok bool) {
	const length = len("00-0123456789abcdef0123456789abcdef-0123456789abcdef-01")
	if len(s) < length || s[2] != '-' || s[35] != '-' || s[52] != '-' {
		return Parent{}, false
	}
	var version, flags [1]byte
	if !decode(version[:], s[:2]) || !decode(p.Trace[:], s[3:35]) || !decode(p.ID[:], s[36:52]) || !decode(flags[:], s[53:55]) {
		return Parent{}, false
	}
	switch {
	case version[0] == 0xff, p.Trace == TraceID{}, p.ID == SpanID{}:
		return Parent{}, false
	case version[0] == 0 && len(s) > length, len(s) > length && s[length] != '-':
		return Parent{}, false
	}
	p.Sampled = flags[0]&1 != 0
	return p, true
}

// decode decodes lower-case hexadecimal digits, two for each byte of into.
func decode(into []byte, digits string) bool {
	for i := range len(digits) {
		if 'A' <= digits[i] && digits[i] <= 'F' {
			return false
		}
	}
	var text [2 * len(TraceID{})]byte
	_, err := hex.Decode(into, text[:copy(text[:], digits)])
	return err == nil
}
