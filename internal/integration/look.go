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

// FileUse is the purpose of a file that an integration refers to.
type FileUse uint8

const (
	// UseCredential is for a file that must exist and not be empty. Its content is hashed
	// and wiped.
	UseCredential FileUse = iota
	// UseToken is like UseCredential, but the content is not part of the revision.
	// Kubernetes renews such tokens every hour, and the provider reads the file for each
	// exchange.
	UseToken
	// UseCA is for a file that contains only PEM certificates.
	UseCA
)

// NamedFile is a file that an integration refers to.
type NamedFile struct {
	Path string // absolute
	Use  FileUse
}

// Digest is a SHA-256 hash.
type Digest [sha256.Size]byte

// Content is the result of reading a referenced file. It does not include the content
// itself.
type Content struct {
	Stamp filestamp.Stamp // taken before reading
	Sum   Digest
	Fault string // "" for a usable file
}

// Look reads every referenced file at most once, so that a thousand integrations with one
// CA file cost one read of it. A Look is for one reload and one goroutine.
type Look struct {
	stamps   map[string]filestamp.Stamp
	contents map[NamedFile]Content
	// Read buffers, allocated when first needed and reused, so that a credential leaves no
	// copies in memory.
	page, credential []byte
	// Blind treats every referenced file as usable without reading it.
	Blind bool
}

// NewLook makes a Look.
func NewLook() *Look {
	return &Look{stamps: make(map[string]filestamp.Stamp), contents: make(map[NamedFile]Content)}
}

// Stamp returns the zero Stamp if the file's attributes cannot be read.
func (i *Look) Stamp(path string) filestamp.Stamp {
	s, ok := i.stamps[path]
	if !ok {
		s = filestamp.At(filestamp.NoDirectory, path)
		i.stamps[path] = s
	}
	return s
}

// Read reads the file, or returns the earlier result for it.
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

// ReadPage reads an integration's file. The result is valid until the next call.
func (i *Look) ReadPage(path string) (data []byte, fault string) {
	return ReadFile(path, &i.page)
}

// ReadFile reads a regular file of bounded size into buf. fault is what is wrong with the
// file, without its name.
func ReadFile(path string, buf *[]byte) (data []byte, fault string) {
	// The type is checked before opening, because opening a pipe blocks until its other
	// end is opened.
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
	defer func() { _ = f.Close() }() // opened for reading only
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

// faultOf removes the path, with which the text of an *fs.PathError begins.
func faultOf(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "there is no such file; a relative path is resolved against the directory of the integration's file"
	case errors.Is(err, fs.ErrPermission):
		return "the broker has no permission to read the file; grant it to the broker's user"
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
		return "the CA file is not valid: " + err.Error()
	}
	return ""
}
