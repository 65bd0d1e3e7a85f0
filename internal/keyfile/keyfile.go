// Package keyfile reads files that hold a key: of a certificate, of the audit's chain, of
// sealed credentials. It refuses one that others may read or write. ReadRegular and
// Replace are the bounded read and the atomic write of other small files.
//
// It knows no format of keys. Its errors quote nothing of a file.
package keyfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Read returns the content of a file of at most so many bytes. The file must be a
// regular one, which its owner alone may read and write, or its group may read where it
// belongs to root and the process does not run as root: PostgreSQL's rule for its
// server's key. An error for a file that is not there is os.ErrNotExist.
func Read(path string, most int64) ([]byte, error) { return read(path, most, tooOpen) }

// ReadRegular reads a regular file of at most so many bytes, whoever may read it.
func ReadRegular(path string, most int64) ([]byte, error) {
	return read(path, most, func(os.FileInfo) string { return "" })
}

func read(path string, most int64, fault func(os.FileInfo) string) ([]byte, error) {
	// Checked before opening: that may wait for a writer of a FIFO.
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
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > most {
		clear(data)
		return nil, fmt.Errorf("%s is larger than %d bytes", path, most)
	}
	return data, nil
}

// Replace writes a file for its owner alone (0600). A reader sees the old content
// or the new, never a part. It does not wait until the content is on the disk.
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
		_ = os.Remove(f.Name()) // it is of no use
	}
	return err
}
