// Package logread reads audit logs: it verifies their chain and answers questions about
// their events.
//
// Verify and Query read the files of a log from the oldest to the newest, compressed or
// not, and keep one line in memory. They are separate on purpose. Verify compares bytes and
// reports up to where the log is intact; it parses only segment headers, so that an error
// in an event cannot hide another one. Query parses events and verifies nothing; run Verify
// first if that matters. Package chain explains the chain itself.
package logread

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/secretbroker/secretbroker/internal/audit/chain"
)

// Stdin is the file name of standard input.
const Stdin = "-"

// rawLine is a line of a log. Its bytes are valid until the next line is read.
type rawLine struct {
	file   string
	n      int   // from 1
	offset int64 // of text in the decompressed file, in bytes
	text   []byte
	// ended: a newline follows. long: text is a part of a line that is too long to be a
	// record.
	ended, long bool
}

// readLines calls f for each line of the files, in order. A file may be compressed with
// gzip, whatever its name is. readLines keeps one line in memory.
func readLines(ctx context.Context, paths []string, f func(rawLine) error) error {
	for _, path := range paths {
		if err := readFile(ctx, path, f); err != nil {
			return err
		}
	}
	return nil
}

func readFile(ctx context.Context, path string, f func(rawLine) error) error {
	file := os.Stdin
	if path != Stdin {
		opened, err := os.Open(path)
		if err != nil {
			return err
		}
		defer opened.Close()
		file = opened
	}
	return scanLines(ctx, path, file, f)
}

// scanLines is readLines for one open file.
func scanLines(ctx context.Context, path string, file io.Reader, f func(rawLine) error) error {
	r := bufio.NewReaderSize(file, 64<<10)
	if magic, err := r.Peek(2); err == nil && bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		gz, err := gzip.NewReader(r)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		r = bufio.NewReaderSize(gz, 64<<10)
	}
	line := rawLine{file: path}
	var buf []byte
	var next int64 // the offset after line
	for {
		part, err := r.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) && !errors.Is(err, io.EOF) {
			return fmt.Errorf("%s:%d: %w", path, line.n+1, err)
		}
		buf = append(buf, part...)
		full := errors.Is(err, bufio.ErrBufferFull)
		if full && len(buf) <= chain.MaxLine {
			continue
		}
		if len(buf) == 0 { // end of the file
			return nil
		}
		if !line.long {
			line.n++
		}
		line.long = line.long || full
		line.ended = err == nil
		line.text = bytes.TrimSuffix(buf, []byte{'\n'})
		line.offset, next = next, next+int64(len(buf))
		if err := f(line); err != nil {
			return err
		}
		if line.n%1024 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		buf, line.long = buf[:0], full
		if err != nil && !full { // the last line had no newline
			return nil
		}
	}
}
