package logread

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"

	"github.com/secretbroker/secretbroker/internal/audit/chain"
)

// recordStart begins every record. Log messages in JSON contain it only with escaped quotes.
const recordStart = `{"v":` + chain.Version + `,`

// streamLine is a line of a stream of which audit records are only a part.
type streamLine struct {
	// rawLine has the position of the line, and as its text the record without what a
	// runtime or collector has put before it, or the whole line if it has no record.
	rawLine
	// isRecord: the text begins like a record.
	isRecord bool
	// wrapped: a container runtime wrote the line.
	wrapped bool
}

// streamLines calls f for each line of the files, in order. It understands
//
//   - lines of the broker itself, also after a prefix, as "kubectl logs --prefix --timestamps"
//     and most collectors add one;
//   - files of container runtimes in Kubernetes (CRI), which split long lines;
//   - files of Docker's driver json-file.
//
// The text of a line is valid until f returns.
func streamLines(ctx context.Context, paths []string, f func(streamLine) error) error {
	u := unwrapper{parts: make(map[string][]byte)}
	return readLines(ctx, paths, func(l rawLine) error {
		if bytes.HasPrefix(l.text, []byte(recordStart)) { // the usual case
			return f(streamLine{rawLine: l, isRecord: true})
		}
		s, whole := u.unwrap(l)
		if !whole {
			return nil
		}
		if i := bytes.Index(s.text, []byte(recordStart)); i >= 0 {
			s.text, s.isRecord = bytes.TrimRight(s.text[i:], " \t\r\n"), true
		}
		return f(s)
	})
}

// unwrapper removes what container runtimes add to lines.
type unwrapper struct {
	// parts are the beginnings of lines that the runtime has split, by file and stream.
	parts map[string][]byte
}

// unwrap returns a line without what a container runtime has added. It returns false for a
// part of a line that is not its last one.
func (u *unwrapper) unwrap(l rawLine) (s streamLine, whole bool) {
	s = streamLine{rawLine: l}
	stream, text, partial := parseCRI(l.text)
	if stream == "" {
		stream, text, partial = parseDocker(l.text)
	}
	if stream == "" {
		return s, true
	}
	s.wrapped = true
	key := l.file + "\x00" + stream
	before, continued := u.parts[key]
	switch {
	case partial && len(before)+len(text) <= chain.MaxLine:
		u.parts[key] = slices.Concat(before, text)
		return s, false
	case partial: // too long to be a record
		u.parts[key] = before
		return s, false
	case continued:
		text = slices.Concat(before, text)
		delete(u.parts, key)
	}
	s.text = text
	return s, true
}

// parseCRI parses "TIME STREAM TAG TEXT", the format of the files that kubelet reads. It
// returns "" as the stream of another line.
func parseCRI(line []byte) (stream string, text []byte, partial bool) {
	fields := bytes.SplitN(line, []byte{' '}, 4)
	if len(fields) < 3 || len(fields[0]) < len("2006-01-02T15:04:05Z") || fields[0][4] != '-' || fields[0][10] != 'T' {
		return "", nil, false
	}
	tag, _, _ := bytes.Cut(fields[2], []byte{':'})
	name := string(fields[1])
	if name != "stdout" && name != "stderr" || string(tag) != "F" && string(tag) != "P" {
		return "", nil, false
	}
	if len(fields) == 4 {
		text = fields[3]
	}
	return name, text, string(tag) == "P"
}

// parseDocker parses a line of Docker's driver json-file. It returns "" as the stream of
// another line.
func parseDocker(line []byte) (stream string, text []byte, partial bool) {
	if !bytes.HasPrefix(line, []byte(`{"log":`)) {
		return "", nil, false
	}
	var entry struct{ Log, Stream string }
	if json.Unmarshal(line, &entry) != nil || entry.Stream == "" {
		return "", nil, false
	}
	return entry.Stream, []byte(entry.Log), len(entry.Log) > 0 && entry.Log[len(entry.Log)-1] != '\n'
}
