package registry

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"

	"github.com/secretbroker/secretbroker/internal/certfile"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// fileUse is what a file that an integration names is for.
type fileUse uint8

const (
	// useCredential: it must exist and hold something; that is hashed and wiped.
	useCredential fileUse = iota
	// useToken: as useCredential, but its content is not part of the revision.
	// Kubernetes renews such tokens every hour, and the provider reads the file
	// for each exchange anyway.
	useToken
	// useCA: PEM certificates and nothing else.
	useCA
)

// reference is one file that an integration names.
type reference struct {
	path string // absolute
	use  fileUse
}

// Digest is a SHA-256 hash.
type Digest [sha256.Size]byte

// content is what is known of a referenced file: never what it holds.
type content struct {
	stamp stamp // taken before reading
	sum   Digest
	fault string
}

// inspector looks at every file at most once, so that a thousand integrations
// with one CA file cost one read of it. It lives as long as one reload.
type inspector struct {
	stamps   map[string]stamp
	contents map[reference]content
	// Where files are read to, allocated when first needed and used again: a
	// credential leaves no copies behind.
	page, credential []byte
	// blind takes every referenced file for a good one, unread.
	blind bool
}

func newInspector() *inspector {
	return &inspector{stamps: make(map[string]stamp), contents: make(map[reference]content)}
}

// stamp returns the zero stamp for what cannot be looked at.
func (i *inspector) stamp(path string) stamp {
	s, ok := i.stamps[path]
	if !ok {
		s = statAt(noDirectory, path)
		i.stamps[path] = s
	}
	return s
}

// read returns what there is to know of ref.
func (i *inspector) read(ref reference) content {
	if i.blind {
		return content{}
	}
	c, ok := i.contents[ref]
	if !ok {
		c = content{stamp: i.stamp(ref.path)}
		var data []byte
		if data, c.fault = readFile(ref.path, &i.credential); c.fault == "" {
			if ref.use != useToken {
				c.sum = sha256.Sum256(data)
			}
			c.fault = checkContent(ref.use, data)
			clear(data)
		}
		i.contents[ref] = c
	}
	return c
}

// readPage reads an integration's file. The bytes are good until the next call.
func (i *inspector) readPage(path string) (data []byte, fault string) {
	return readFile(path, &i.page)
}

// readFile reads a regular file of bounded size into buf. fault says what is
// wrong with it, without its name.
func readFile(path string, buf *[]byte) (data []byte, fault string) {
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

func checkContent(use fileUse, data []byte) (fault string) {
	if len(bytes.TrimSpace(data)) == 0 {
		return "the file is empty"
	}
	if use != useCA {
		return ""
	}
	if _, err := certfile.Parse(data); err != nil {
		return "of this file only PEM certificates can be used: " + err.Error()
	}
	return ""
}
