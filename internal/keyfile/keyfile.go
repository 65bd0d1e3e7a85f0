// Package keyfile reads files that contain a key: of a certificate, of the audit log's chain,
// or of sealed credentials. It refuses files that other users can read or write. ReadRegular
// and Replace read and atomically write other small files.
//
// The package does not depend on the format of the keys. Its errors never quote the content
// of a file.
package keyfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Read returns the content of a file of at most limit bytes. It must be a regular file that
// only its owner can read and write. If the file belongs to root and the process does not
// run as root, its group may read it, too; this is PostgreSQL's rule for the server key. If
// the file does not exist, the error is os.ErrNotExist.
func Read(path string, limit int64) ([]byte, error) { return read(path, limit, tooOpen) }

// ReadRegular returns the content of a regular file of at most limit bytes, whatever its
// permissions.
func ReadRegular(path string, limit int64) ([]byte, error) {
	return read(path, limit, func(os.FileInfo) string { return "" })
}

func read(path string, limit int64, fault func(os.FileInfo) string) ([]byte, error) {
	// Check the kind before opening, which would block on a FIFO without a writer.
	if info, err := os.Stat(path); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if text := fault(info); text != "" {
		return nil, fmt.Errorf("%s %s", path, text)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		clear(data)
		return nil, fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return data, nil
}

// Replace writes a file with mode 0600. A reader sees either the old or the new content. It
// does not wait until the content is on the disk.
func Replace(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // with mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // incomplete
	}
	return err
}
