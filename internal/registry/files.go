package registry

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// FilesConfig is what Open needs. Only Dir is required.
type FilesConfig struct {
	// Dir is the directory with one integration in every .yaml or .yml file.
	// Hidden files, other files and subdirectories are left alone. Files are best
	// replaced by renaming: one that is overwritten in place may be read while
	// half of it is there, and half a list of grants can be a valid file.
	Dir string
	// Logger is told of every change and every fault; nil discards.
	Logger *slog.Logger
	// PollInterval is how often Run looks for changes that it was not notified
	// of, those of credential files above all; 0 means 5 s. A poll goes by sizes
	// and time stamps; where the system keeps a change time, no write escapes that.
	PollInterval time.Duration
	// OnChange, if not nil, is called by Reload after what is served has changed:
	// removed are integrations that are gone, as they last were; changed are
	// those that are new or differ, as they now are. Calls do not overlap, and
	// must not call Reload.
	OnChange func(removed, changed []*Integration)
	// Now is the clock that ages of files are told by; nil means time.Now.
	Now func() time.Time
	// PoliciesOnly leaves the files that integrations name unread: for questions
	// about grants where the credentials are not, as in a pull request's checkout.
	PoliciesOnly bool
}

// FileFault is a file that does not say what is served in its place.
type FileFault struct {
	// File is the path of the file, or of the directory when that cannot be read.
	File string
	// Faults is never empty.
	Faults strictyaml.Faults
	// Serving is the id of the integration that is served from the file's last
	// good content, "" if none is. While the directory cannot be read all are, and
	// this is "" in its own fault.
	Serving string
}

// Files serves the integrations of a directory. It is safe for concurrent use.
//
// A file at fault never takes the others with it. At start its integration is
// not served; later, what it last served stays until the file is mended or
// removed. An id that two files claim stays with the one that serves it
// already, and with neither if none does.
type Files struct {
	dir      string
	log      *slog.Logger
	poll     time.Duration
	onChange func(removed, changed []*Integration)
	now      func() time.Time
	blind    bool // PoliciesOnly

	current atomic.Pointer[snapshot]

	reload sync.Mutex       // serialises Reload and guards files
	files  map[string]*file // by path
}

// snapshot is what is served at one time. It is immutable.
type snapshot struct {
	byID   map[string]*Integration
	sorted []*Integration   // by ID
	source map[string]*file // by ID; the files' own fields are Files.reload's
	faults []FileFault      // by File
}

// withFault returns s with one more fault, of the directory.
func (s *snapshot) withFault(dir, text string) *snapshot {
	next := *s
	next.faults = []FileFault{{File: dir, Faults: strictyaml.Faults{{File: dir, Text: text}}}}
	for _, ff := range s.faults {
		if ff.File != dir {
			next.faults = append(next.faults, ff)
		}
	}
	return &next
}

// Open reads the directory. Files at fault are no error, see Faults; a directory
// that cannot be read is one. Changes take effect by Run or Reload.
func Open(c FilesConfig) (*Files, error) {
	dir, err := filepath.Abs(c.Dir)
	if c.Dir == "" || err != nil {
		return nil, fmt.Errorf("registry: a directory of integrations is required")
	}
	f := &Files{dir: dir, log: c.Logger, poll: c.PollInterval, now: c.Now, blind: c.PoliciesOnly}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	if f.poll <= 0 {
		f.poll = 5 * time.Second
	}
	if f.now == nil {
		f.now = time.Now
	}
	f.current.Store(&snapshot{})
	files, err := f.scan(false)
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	f.install(files)
	f.onChange = c.OnChange // what is there at first is no change
	if len(files) == 0 {
		f.log.Warn("no integrations: the directory has no .yaml file", "dir", dir)
	}
	return f, nil
}

// Validate reads the directory as Open does and returns the integrations that
// would be served, by ID, and every fault.
func Validate(dir string) ([]*Integration, strictyaml.Faults) {
	return validate(FilesConfig{Dir: dir})
}

// ReadPolicies is Validate without a look at the files that integrations name.
func ReadPolicies(dir string) ([]*Integration, strictyaml.Faults) {
	return validate(FilesConfig{Dir: dir, PoliciesOnly: true})
}

func validate(c FilesConfig) ([]*Integration, strictyaml.Faults) {
	f, err := Open(c)
	if err != nil {
		return nil, strictyaml.Faults{{File: c.Dir, Text: err.Error()}}
	}
	var faults strictyaml.Faults
	for _, ff := range f.Faults() {
		faults = append(faults, ff.Faults...)
	}
	return f.List(), faults
}

// Get returns the integration of that id, or ErrNotFound. It takes no lock.
func (f *Files) Get(id string) (*Integration, error) {
	if in, ok := f.current.Load().byID[id]; ok {
		return in, nil
	}
	return nil, ErrNotFound
}

// List returns the integrations that are served, by ID.
func (f *Files) List() []*Integration { return slices.Clone(f.current.Load().sorted) }

// Faults returns the files that are at fault now, by path.
func (f *Files) Faults() []FileFault { return slices.Clone(f.current.Load().faults) }

// Reload looks for changes now and returns when they have taken effect. It reads
// every file, those that integrations name included, so that it finds changes
// that no time stamp shows; parsed and told of is what has changed. Ten thousand
// integrations with a credential each take some 250 ms from the page cache, two
// to three times what a poll takes. If the directory itself cannot be read,
// everything stays as it is and Faults says so.
func (f *Files) Reload() { f.update(false) }

// update looks for changes. With trust, files that look the same are not read;
// see file.settled.
func (f *Files) update(trust bool) {
	f.reload.Lock()
	defer f.reload.Unlock()
	files, err := f.scan(trust)
	if err != nil {
		f.publish(f.current.Load().withFault(f.dir, "the directory cannot be read, so no change takes effect: "+err.Error()))
		return
	}
	f.install(files)
}

// install makes files what is served. Callers hold f.reload or are Open.
func (f *Files) install(files map[string]*file) {
	f.files = files
	f.publish(settle(files, f.current.Load()))
}

// publish makes next the current snapshot and tells what is different.
func (f *Files) publish(next *snapshot) {
	last := f.current.Swap(next)
	f.logFaults(last.faults, next)
	var removed, changed []*Integration
	for _, in := range last.sorted {
		if next.byID[in.ID] == nil {
			removed = append(removed, in)
			f.log.Info("integration removed", "integration", in.ID)
		}
	}
	for _, in := range next.sorted {
		if last.byID[in.ID] == in {
			continue
		}
		changed = append(changed, in)
		f.log.Info("integration loaded", "integration", in.ID, "revision", in.Revision, "file", next.source[in.ID].path)
		if next.source[in.ID].ungranted {
			f.log.Warn("integration has no grants: nobody may use it", "integration", in.ID)
		}
	}
	if f.onChange != nil && len(removed)+len(changed) > 0 {
		f.onChange(removed, changed)
	}
}

// logFaults reports each distinct fault once, not at every poll.
func (f *Files) logFaults(last []FileFault, next *snapshot) {
	known := make(map[string]string, len(last))
	for _, ff := range last {
		known[ff.File] = ff.Faults.Error()
	}
	for _, ff := range next.faults {
		text := ff.Faults.Error()
		switch {
		case known[ff.File] == text:
		case ff.File == f.dir:
			f.log.LogAttrs(context.Background(), slog.LevelError, "integrations directory cannot be read: what was served last goes on being served",
				slog.String("dir", ff.File), slog.String("faults", text), slog.Int("still_serving", len(next.sorted)))
		default:
			f.log.LogAttrs(context.Background(), slog.LevelError, "integration file is not acceptable",
				slog.String("file", ff.File), slog.String("faults", text), slog.String("still_serving", ff.Serving))
		}
		delete(known, ff.File)
	}
	for file := range known {
		if file == f.dir {
			f.log.Info("integrations directory can be read again", "dir", file)
			continue
		}
		f.log.Info("integration file is no longer at fault", "file", file)
	}
}
