package connectorfile

import (
	"bytes"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// blank is the white space of the format. It separates a key from its value and is
// ignored at the beginning of a line.
const blank = " \t\f"

// parseProperties parses a .properties file in the same way as java.util.Properties,
// which Kafka Connect's standalone mode uses. In addition, it rejects files that most
// likely contain a mistake: a duplicate property, a property without a name or with one in
// quotation marks, a last line that ends with a backslash, and characters outside ASCII. Java reads such characters as
// ISO-8859-1 while most editors write UTF-8, so either interpretation would be wrong for
// some users; \uXXXX is unambiguous.
//
// Kafka's placeholders, ${provider:path:key}, are not interpreted.
//
// github.com/magiconair/properties v1.18 is not suitable: it silently accepts duplicate
// properties, provides no line numbers, quotes values in its errors, ends a continued
// line at a CR LF, and replaces surrogate pairs and bytes that are not UTF-8 by U+FFFD.
func parseProperties(data []byte) (Connector, error) {
	if bytes.HasPrefix(data, []byte(byteOrderMark)) {
		return Connector{}, faultf(1, "the file begins with a byte order mark, which Kafka Connect reads as a part of the first property's name; save it as UTF-8 without one")
	}
	c := Connector{Configs: make(map[string]string), Lines: make(map[string]int)}
	if err := c.readProperties(&lineReader{rest: string(data)}); err != nil {
		return Connector{}, err
	}
	c.Name = c.Configs["name"]
	return c, nil
}

// ParseSecrets parses a .properties file in the same way as Kafka's FileConfigProvider,
// which reads it as UTF-8. Otherwise it is as strict as Parse. The error is an *Error.
func ParseSecrets(data []byte) (map[string]string, error) {
	data = bytes.TrimPrefix(data, []byte(byteOrderMark))
	if !utf8.Valid(data) {
		return nil, faultf(0, "the file is not UTF-8")
	}
	c := Connector{Configs: make(map[string]string), Lines: make(map[string]int)}
	if err := c.readProperties(&lineReader{rest: string(data), anyText: true}); err != nil {
		return nil, err
	}
	return c.Configs, nil
}

// readProperties adds the properties of r to c.
func (c *Connector) readProperties(r *lineReader) error {
	for {
		line, at, err := r.logical()
		if err != nil {
			return err
		}
		if at == 0 {
			return nil
		}
		rawKey, rawValue := splitProperty(line)
		key, ok := unescape(rawKey)
		value, valueOK := unescape(rawValue)
		if !ok || !valueOK {
			return faultf(at, `a \u without four hexadecimal digits, or half of a surrogate pair`)
		}
		if key == "" {
			return faultf(at, "a property without a name")
		}
		if !r.anyText && (key[0] == '"' || key[0] == '\'') {
			return faultf(at, "a name in quotation marks, so this is not a .properties file; if it is a script or a statement that contains a configuration, save the configuration in a file of its own, as JSON")
		}
		if first, ok := c.Lines[key]; ok {
			return faultf(at, "the property %q occurs twice, first on line %d", key, first)
		}
		c.Configs[key], c.Lines[key] = value, at
	}
}

// lineReader reads the lines of a properties file.
type lineReader struct {
	rest string
	line int // number of the last line that was read, counted from 1
	// anyText allows characters outside ASCII and names in quotation marks.
	anyText bool
}

// natural returns the next line as written in the file. A line ends with LF, CR, CR LF or
// the end of the file.
func (r *lineReader) natural() (line string, ok bool) {
	if r.rest == "" {
		return "", false
	}
	r.line++
	end := strings.IndexAny(r.rest, "\r\n")
	if end < 0 {
		line, r.rest = r.rest, ""
		return line, true
	}
	line, r.rest = r.rest[:end], r.rest[end:]
	if rest, ok := strings.CutPrefix(r.rest, "\r\n"); ok {
		r.rest = rest
	} else {
		r.rest = r.rest[1:]
	}
	return line, true
}

// logical returns the next property, joined from its natural lines, and the line on which
// it begins, zero at the end of the file. It skips empty lines and comments.
func (r *lineReader) logical() (line string, at int, err error) {
	var joined strings.Builder
	continued := false
	for {
		natural, ok := r.natural()
		if !ok && continued {
			return "", 0, faultf(r.line, "the last line ends with a backslash, so another line must follow; the file may be truncated")
		}
		if !ok {
			return "", 0, nil
		}
		natural = strings.TrimLeft(natural, blank)
		if joined.Len() == 0 {
			if natural == "" || natural[0] == '#' || natural[0] == '!' {
				continue
			}
			at = r.line
		}
		if !r.anyText && !isASCII(natural) {
			return "", 0, faultf(r.line, `a character outside ASCII, which Kafka Connect reads as ISO-8859-1 and most editors write as UTF-8; write it as \uXXXX`)
		}
		// Two backslashes are one escaped backslash, so only an odd number at the end
		// continues the line.
		text := strings.TrimRight(natural, `\`)
		continued = (len(natural)-len(text))%2 == 1
		if !continued {
			joined.WriteString(natural)
			return joined.String(), at, nil
		}
		joined.WriteString(natural[:len(natural)-1])
	}
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// splitProperty splits a line at the first blank, "=" or ":" that is not escaped. Blanks
// around the separator belong to neither side.
func splitProperty(line string) (key, value string) {
	end := 0
	for end < len(line) && !strings.ContainsRune(blank+"=:", rune(line[end])) {
		if line[end] == '\\' {
			end++
		}
		end++
	}
	end = min(end, len(line))
	value = strings.TrimLeft(line[end:], blank)
	if value != "" && (value[0] == '=' || value[0] == ':') {
		value = strings.TrimLeft(value[1:], blank)
	}
	return line[:end], value
}

// unescape replaces \t, \n, \f, \r and \uXXXX, and drops the backslash before any other
// character. It returns false if a \u is malformed.
func unescape(s string) (text string, ok bool) {
	before, rest, found := strings.Cut(s, `\`)
	if !found {
		return s, true
	}
	var b strings.Builder
	for ; found; before, rest, found = strings.Cut(rest, `\`) {
		b.WriteString(before)
		if rest == "" { // not possible in a logical line, whose last backslash is escaped
			return "", false
		}
		c := rest[0]
		rest = rest[1:]
		switch c {
		case 't':
			b.WriteByte('\t')
		case 'n':
			b.WriteByte('\n')
		case 'f':
			b.WriteByte('\f')
		case 'r':
			b.WriteByte('\r')
		case 'u':
			r, n := unicodeEscape(rest)
			if n == 0 {
				return "", false
			}
			b.WriteRune(r)
			rest = rest[n:]
		default:
			b.WriteByte(c)
		}
	}
	b.WriteString(before)
	return b.String(), true
}

// unicodeEscape parses s, the text after a \u: four hexadecimal digits, or a surrogate
// pair. n is the number of bytes that it used, zero if s is malformed.
func unicodeEscape(s string) (r rune, n int) {
	high, ok := hex4(s)
	if !ok {
		return 0, 0
	}
	if !utf16.IsSurrogate(high) {
		return high, 4
	}
	if !strings.HasPrefix(s[4:], `\u`) {
		return 0, 0
	}
	low, ok := hex4(s[6:])
	if !ok {
		return 0, 0
	}
	if r = utf16.DecodeRune(high, low); r == '\uFFFD' {
		return 0, 0
	}
	return r, 10
}

func hex4(s string) (rune, bool) {
	if len(s) < 4 {
		return 0, false
	}
	n, err := strconv.ParseUint(s[:4], 16, 16)
	return rune(n), err == nil
}
