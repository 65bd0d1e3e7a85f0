// Package keyfile reads files that hold a key: of a certificate, of the audit's chain, of
// sealed credentials. It refuses one that others may read or write.
//
// It knows no format of keys. Its errors quote nothing of a file.
package keyfile

import (
	"fmt"
	"io"
	"os"
)

// Read returns the content of a file of at most so many bytes. The file must be a
// regular one, which its owner alone may read and write, or its group may read where it
// belongs to root and the process does not run as root: PostgreSQL's rule for its
// server's key. An error for a file that is not there is os.ErrNotExist.
func Read(path string, most int64) ([]byte, error) {
	// Asked before opening: that may wait for a writer of a FIFO.
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
	if fault := tooOpen(info); fault != "" {
		return nil, fmt.Errorf("%s %s", path, fault)
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
