package denial

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/elapsed"
	"github.com/secretbroker/secretbroker/internal/filestamp"
	"github.com/secretbroker/secretbroker/internal/keyfile"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

const (
	// maxFile is the maximum size of a file in bytes.
	maxFile = strictyaml.MaxSize
	// settled is the age from which the attributes of a file prove that it has not changed,
	// whatever the resolution of the file system's clock.
	settled = 2 * time.Second
	// overdue is the age of the last successful check from which it is a problem.
	overdue = time.Minute
)

// FileConfig configures a File. Path and Set are required.
type FileConfig struct {
	Path string
	// Set receives the list.
	Set *Set
	// Logger receives changes and problems. Nil discards them.
	Logger *slog.Logger
	// Poll is the interval at which Run checks the file; zero means 500 ms.
	Poll time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// File is a file of entries that is kept current. It is safe for concurrent use.
type File struct {
	cfg FileConfig

	reading sync.Mutex // held while the file is read, which may hang
	stamp   filestamp.Stamp
	content []byte // of the list in effect

	mu       sync.Mutex
	problem  string // of the last attempt
	failures uint64
	checked  time.Time // the last successful check
}

// OpenFile reads the file and puts its list into effect. An error means that the file does
// not exist, cannot be read or is not valid.
func OpenFile(cfg FileConfig) (*File, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.Poll = cmp.Or(cfg.Poll, 500*time.Millisecond)
	f := &File{cfg: cfg, checked: cfg.Now()}
	if err := f.read(); err != nil {
		return nil, err
	}
	return f, nil
}

// CheckFile returns what is wrong with the file at path.
func CheckFile(path string) error {
	data, err := readFile(path)
	if err == nil {
		_, err = parse(path, data)
	}
	return err
}

// Run keeps the list current until ctx ends, and then returns nil. A File whose file system
// hangs keeps its list.
func (f *File) Run(ctx context.Context) error {
	poll := time.NewTicker(f.cfg.Poll)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-poll.C:
			_ = f.Check() // reports its own errors
		}
	}
}

// Check reads the file if it may have changed. On error the last list stays in effect.
func (f *File) Check() error {
	f.reading.Lock()
	defer f.reading.Unlock()
	now := f.cfg.Now()
	stamp := filestamp.At(filestamp.NoDirectory, f.cfg.Path)
	if stamp == f.stamp && stamp.Before(now.Add(-settled)) {
		f.report(now, nil)
		return nil
	}
	err := f.readLocked()
	f.report(now, err)
	return err
}

func (f *File) read() error {
	f.reading.Lock()
	defer f.reading.Unlock()
	return f.readLocked()
}

// readLocked reads the file. The caller holds f.reading. The stamp is that before the
// content was read, so that a change in the meantime is found by the next check.
func (f *File) readLocked() error {
	stamp := filestamp.At(filestamp.NoDirectory, f.cfg.Path)
	data, err := readFile(f.cfg.Path)
	if err != nil {
		f.stamp = filestamp.Stamp{}
		return err
	}
	if f.content != nil && bytes.Equal(data, f.content) {
		f.stamp = stamp
		return nil
	}
	l, err := parse(f.cfg.Path, data)
	if err != nil {
		f.stamp = filestamp.Stamp{}
		return err
	}
	f.stamp, f.content = stamp, data
	f.cfg.Set.Put(FromFile, l)
	f.cfg.Logger.Info("deny list loaded", "file", f.cfg.Path, "entries", len(l.Entries()))
	return nil
}

// report records the result of a check and logs it if it is new.
func (f *File) report(now time.Time, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		if f.problem != "" {
			f.cfg.Logger.Info("the deny list's file can be used again", "file", f.cfg.Path)
		}
		f.problem, f.checked = "", now
		return
	}
	f.failures++
	if text := err.Error(); text != f.problem {
		f.problem = text
		f.cfg.Logger.Error("the deny list's file cannot be used; the last valid list stays in effect", "file", f.cfg.Path, "error", err)
	}
}

// Problem returns why the file is not in effect, or "".
func (f *File) Problem() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.problem != "" {
		return f.problem + "; the last valid list stays in effect"
	}
	if age := elapsed.Between(f.checked, f.cfg.Now()); age > overdue {
		return fmt.Sprintf("the deny list's file was last checked %s ago, so its file system does not answer; the last valid list stays in effect", age.Round(time.Second))
	}
	return ""
}

// Failures returns the number of failed attempts to read the file.
func (f *File) Failures() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failures
}

func readFile(path string) ([]byte, error) {
	data, err := keyfile.ReadRegular(path, maxFile)
	if err != nil {
		return nil, fmt.Errorf("read the deny list: %w", err)
	}
	return data, nil
}

// document is the content of a file.
type document struct {
	Denials []section `yaml:"denials"`
}

type section struct {
	Principal  string `yaml:"principal"`
	SHA256     string `yaml:"certificate_sha256"`
	Serial     string `yaml:"certificate_serial"`
	Issuer     string `yaml:"certificate_issuer"`
	Reason     string `yaml:"reason"`
	ExpireTime string `yaml:"expire_time"`
}

// parse returns the list in a file, or a strictyaml.Faults with everything that is wrong. A
// file without the list is faulty, because it may be incomplete.
func parse(path string, data []byte) (*List, error) {
	var d document
	doc := strictyaml.Decode(path, data, &d)
	// An empty list must be explicit, because a file that is cut off after "denials:" looks
	// the same otherwise.
	if len(doc.Faults()) == 0 && len(d.Denials) == 0 && !bytes.ContainsRune(data, '[') {
		doc.Fault("denials", "missing; it is required: the list of denials, or [] for none")
	}
	if len(d.Denials) > MaxEntries {
		doc.Fault("denials", "expected at most %d denials", MaxEntries)
	}
	entries := make([]Entry, 0, len(d.Denials))
	for i, s := range d.Denials {
		at := strictyaml.Index("denials", i)
		e := Entry{Subject: Subject{authz.Principal(s.Principal), s.SHA256, s.Serial, s.Issuer}, Reason: s.Reason, InFile: true}
		e, err := e.Canonical()
		if fault, ok := errors.AsType[*Fault](err); ok {
			doc.Fault(at+"."+fault.Field, "%s", fault.Text)
		}
		if s.ExpireTime != "" {
			if e.ExpiresAt, err = time.Parse(time.RFC3339, s.ExpireTime); err != nil || e.ExpiresAt.IsZero() {
				doc.Fault(at+".expire_time", "expected a time, such as 2027-01-31T12:00:00Z")
			}
		}
		entries = append(entries, e)
	}
	if err := doc.Faults().Err(); err != nil {
		return nil, err
	}
	return NewList(entries), nil
}
