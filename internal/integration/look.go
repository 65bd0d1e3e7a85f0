package integration

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"

	"github.com/secretbroker/secretbroker/internal/certfile"
	"github.com/secretbroker/secretbroker/internal/filestamp"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// FileUse is what a file that an integration names is for.
type FileUse uint8

const (
	// UseCredential is for a file that must exist and hold something, which is hashed and wiped.
	UseCredential FileUse = iota
	// UseToken is as UseCredential, but the content is not part of the revision.
	// Kubernetes renews such tokens every hour, and the provider reads the file
	// for each exchange anyway.
	UseToken
	// UseCA is for PEM certificates and nothing else.
	UseCA
)

// NamedFile is one file that an integration names.
type NamedFile struct {
	Path string // absolute
	Use  FileUse
}

// Digest is a SHA-256 hash.
type Digest [sha256.Size]byte

// Content is what is known of a referenced file: never what it holds.
type Content struct {
	Stamp filestamp.Stamp // taken before reading
	Sum   Digest
	Fault string // "" for a file that can be used
}

// Look reads every file that documents name at most once, so that a thousand
// integrations with one CA file cost one read of it. It is used for one reload and by
// one goroutine.
type Look struct {
	stamps   map[string]filestamp.Stamp
	contents map[NamedFile]Content
	// Where files are read to, allocated when first needed and used again: a
	// credential leaves no copies behind.
	page, credential []byte
	// Blind takes every referenced file for a good one, unread.
	Blind bool
}

// NewLook makes a Look.
func NewLook() *Look {
	return &Look{stamps: make(map[string]filestamp.Stamp), contents: make(map[NamedFile]Content)}
}

// Stamp returns the zero Stamp for what cannot be looked at.
func (i *Look) Stamp(path string) filestamp.Stamp {
	s, ok := i.stamps[path]
	if !ok {
		s = filestamp.At(filestamp.NoDirectory, path)
		i.stamps[path] = s
	}
	return s
}

// Read returns what there is to know of ref.
func (i *Look) Read(ref NamedFile) Content {
	if i.Blind {
		return Content{}
	}
	c, ok := i.contents[ref]
	if !ok {
		c = Content{Stamp: i.Stamp(ref.Path)}
		var data []byte
		if data, c.Fault = ReadFile(ref.Path, &i.credential); c.Fault == "" {
			if ref.Use != UseToken {
				c.Sum = sha256.Sum256(data)
			}
			c.Fault = checkContent(ref.Use, data)
			clear(data)
		}
		i.contents[ref] = c
	}
	return c
}

// ReadPage reads an integration's file. The bytes are good until the next call.
func (i *Look) ReadPage(path string) (data []byte, fault string) {
	return ReadFile(path, &i.page)
}

// ReadFile reads a regular file of bounded size into buf. fault says what is
// wrong with it, without its name.
func ReadFile(path string, buf *[]byte) (data []byte, fault string) {
	// Asked before opening: to open a pipe waits for its other end.
	info, err := os.Stat(path)
	if err != nil {
		return nil, faultOf(err)
	}
	if !info.Mode().IsRegular() {
		return nil, "not a regular file"
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, faultOf(err)
	}
	defer func() { _ = f.Close() }() // it was only read
	if *buf == nil {
		*buf = make([]byte, strictyaml.MaxSize+1)
	}
	n, err := io.ReadFull(f, *buf)
	switch {
	case err == nil:
		clear(*buf)
		return nil, "the file is larger than 1 MiB"
	case !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		clear(*buf)
		return nil, faultOf(err)
	}
	return (*buf)[:n], ""
}

// faultOf leaves out the path, which the text of an *fs.PathError begins with.
func faultOf(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "there is no such file; a relative path begins at the directory of the file that it stands in"
	case errors.Is(err, fs.ErrPermission):
		return "the broker may not read the file; give its user the right to"
	}
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return "the file cannot be read: " + err.Error()
}

func checkContent(use FileUse, data []byte) (fault string) {
	if len(bytes.TrimSpace(data)) == 0 {
		return "the file is empty"
	}
	if use != UseCA {
		return ""
	}
	if _, err := certfile.Parse(data); err != nil {
		return "only PEM certificates can be used: " + err.Error()
	}
	return ""
}
