package keyvault

import (
	"bytes"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"
)

// settled is the age from which a file's modification time can be trusted to
// change with the next write: the clocks of file systems tick coarsely.
const settled = 2 * time.Second

// stateFile is the secrets file and the last good state that was read from it.
// It is safe for concurrent use.
type stateFile struct {
	path string
	log  *slog.Logger

	mu     sync.Mutex
	vaults map[string]*vault
	data   []byte      // what was read last, good or not
	info   fs.FileInfo // of data; nil to read again in any case
	fault  string      // what was reported last, empty while all is well
}

// openStateFile reads the file for the first time, which has to succeed.
func openStateFile(path string, log *slog.Logger) (*stateFile, error) {
	f := &stateFile{path: path, log: log}
	if err := f.refresh(); err != nil {
		return nil, err
	}
	return f, nil
}

// current returns the vaults by name: those of the file now, or the
// last good ones while there is a fault in it, which is logged once.
func (f *stateFile) current() map[string]*vault {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.refresh(); err != nil && err.Error() != f.fault {
		f.fault = err.Error()
		f.log.Error("the embedded Key Vault keeps serving the last good secrets; correct the file", "error", err)
	}
	return f.vaults
}

// refresh reads the file if it may have changed. It returns nil when there was
// nothing to read.
func (f *stateFile) refresh() error {
	info, err := os.Stat(f.path)
	if err != nil {
		f.info = nil
		return fmt.Errorf("secrets file: %w", err)
	}
	if f.info != nil && os.SameFile(f.info, info) && f.info.ModTime().Equal(info.ModTime()) && f.info.Size() == info.Size() {
		return nil
	}
	data, err := os.ReadFile(f.path)
	if err != nil {
		f.info = nil
		return fmt.Errorf("secrets file: %w", err)
	}
	f.info = info
	// The file's times are the operating system's, so this is its clock too.
	if time.Since(info.ModTime()) < settled {
		f.info = nil
	}
	if f.data != nil && f.fault == "" && bytes.Equal(f.data, data) {
		return nil
	}
	return f.replace(data, info.ModTime())
}

func (f *stateFile) replace(data []byte, modified time.Time) error {
	first := f.data == nil
	f.data = data
	vaults, err := parseState(data, modified)
	if err != nil {
		return fmt.Errorf("secrets file %s: %w", f.path, err)
	}
	f.vaults, f.fault = vaults, ""
	if !first {
		f.log.Info("the embedded Key Vault read its secrets again", "file", f.path, "vaults", len(vaults))
	}
	return nil
}
