// Package dirstore is a registry.Store of integrations that are files in a directory,
// which it watches.
package dirstore

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// Config is what Open needs. Only Kinds and Dir are required.
type Config struct {
	// Kinds are the kinds of stores that there are.
	Kinds *integration.Kinds
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
	OnChange func(removed, changed []*integration.Integration)
	// Now is the clock that ages of files are told by; nil means time.Now.
	Now func() time.Time
	// PoliciesOnly leaves the files that integrations name unread: for questions
	// about grants where the credentials are not, as in a pull request's checkout.
	PoliciesOnly bool
}

// Store serves the integrations of a directory. It is safe for concurrent use.
//
// A file at fault never takes the others with it. At start its integration is
// not served; later, what it last served stays until the file is mended or
// removed. An id that two files declare stays with the one that serves it
// already, and with neither if none does.
//
// A file that is deleted takes its integration away at once. When several vanish
// in one look, or all with their directory, they are held: their integrations are
// served for five minutes more, or until Reload, and Faults says so.
//
// While no look at the files completes, because reading them hangs or the directory
// cannot be read, Status says so, and after 15 minutes Get returns ErrUnavailable.
type Store struct {
	dir      string
	log      *slog.Logger
	interval time.Duration // of polls
	kinds    *integration.Kinds
	onChange func(removed, changed []*integration.Integration)
	now      func() time.Time
	blind    bool // PoliciesOnly

	current atomic.Pointer[snapshot]
	roles   registry.RoleIndex

	reload     sync.Mutex // serialises Reload and guards the rest; no call waits for it
	listing    listing
	expected   *expected                     // nil until the first poll
	files      map[string]*file              // by path
	declared   index                         // by the id that they declare
	named      index                         // by the paths of the files that they name
	linked     int                           // how many are
	faulty     map[string]registry.FileFault // by path
	unreadable string                        // what keeps the directory from being read
	vanished   vanished

	seen      atomic.Pointer[time.Time] // when the last complete look began
	heldCount atomic.Int64              // integrations that are served although their files vanished
	reloading chan struct{}             // has an element while a Reload is under way
}

// Open reads the directory. Files at fault are no error, see Faults; a directory
// that cannot be read is one. Changes take effect by Run or Reload.
func Open(c Config) (*Store, error) {
	dir, err := filepath.Abs(c.Dir)
	if c.Dir == "" || err != nil {
		return nil, fmt.Errorf("registry: a directory of integrations is required")
	}
	f := &Store{dir: dir, kinds: c.Kinds, log: c.Logger, interval: c.PollInterval, now: c.Now, blind: c.PoliciesOnly, reloading: make(chan struct{}, 1)}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	if f.interval <= 0 {
		f.interval = 5 * time.Second
	}
	if f.now == nil {
		f.now = time.Now
	}
	f.files, f.faulty = make(map[string]*file), make(map[string]registry.FileFault)
	f.declared, f.named = make(index), make(index)
	f.current.Store(&snapshot{byID: make(map[string]served)})
	f.looked(f.now())
	if err := f.poll(); err != nil { // of nothing that is known, which reads everything
		return nil, fmt.Errorf("registry: %w", err)
	}
	f.onChange = c.OnChange // what is there at first is no change
	if len(f.files) == 0 {
		f.log.Warn("no integrations: the directory has no .yaml file", "dir", dir)
	}
	return f, nil
}

// Validate reads the directory as Open does and returns the integrations that
// would be served, by ID, and every fault.
func Validate(kinds *integration.Kinds, dir string) ([]*integration.Integration, strictyaml.Faults) {
	return validate(Config{Kinds: kinds, Dir: dir})
}

// ReadPolicies is Validate without a look at the files that integrations name.
func ReadPolicies(kinds *integration.Kinds, dir string) ([]*integration.Integration, strictyaml.Faults) {
	return validate(Config{Kinds: kinds, Dir: dir, PoliciesOnly: true})
}

func validate(c Config) ([]*integration.Integration, strictyaml.Faults) {
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

// Get returns the integration of that id, ErrNotFound, or ErrUnavailable if the last
// complete look at the files is more than 15 minutes ago. It takes no lock.
func (f *Store) Get(id string) (*integration.Integration, error) {
	if !f.mayServe() {
		return nil, registry.ErrUnavailable
	}
	if s, ok := f.current.Load().byID[id]; ok {
		return s.in, nil
	}
	return nil, registry.ErrNotFound
}

// List returns the integrations that are served, by ID.
func (f *Store) List() []*integration.Integration { return slices.Clone(f.current.Load().sorted) }

// WithRole returns those of List on which who has a role, by ID, or ErrUnavailable as
// Get does.
func (f *Store) WithRole(who authz.Principal) ([]*integration.Integration, error) {
	if !f.mayServe() {
		return nil, registry.ErrUnavailable
	}
	return f.roles.Find(f.current.Load().sorted, who), nil
}

// Faults returns the files that are at fault now, by path.
func (f *Store) Faults() []registry.FileFault { return slices.Clone(f.current.Load().faults) }

// lookAtAll is Reload. Files that vanished together are removed only if somebody
// has confirmed that.
func (f *Store) lookAtAll(confirmed bool) {
	for _, how := range []func() error{f.poll, f.readAll} {
		f.update(func() error {
			f.vanished.confirmed = confirmed
			defer func() { f.vanished.confirmed = false }()
			return how()
		})
	}
}

// update takes up changes by one of the ways that there are, and says so if the
// directory cannot be read or files are held that are no longer in it.
func (f *Store) update(how func() error) {
	f.reload.Lock()
	defer f.reload.Unlock()
	before := f.directoryFaults().Error()
	unreadable := ""
	if err := how(); err != nil {
		unreadable = "the directory cannot be read, so no change takes effect: " + err.Error()
	}
	f.unreadable = unreadable
	f.heldCount.Store(f.heldServing())
	if f.directoryFaults().Error() != before {
		last := f.current.Load()
		f.publish(&snapshot{byID: last.byID, sorted: last.sorted, faults: f.atFault()}, nil)
	}
}

// install makes what loaded says of these files what is served, nil of those that
// are gone. Callers hold f.reload or are Open.
func (f *Store) install(paths []string, loaded []*file) {
	last := f.current.Load()
	if c := f.replace(paths, loaded, last); len(c.files)+len(c.ids) > 0 {
		f.publish(f.nextSnapshot(c, last), c.ids)
	}
}

// publish makes next the current snapshot and tells what is different of ids.
func (f *Store) publish(next *snapshot, ids map[string]bool) {
	last := f.current.Swap(next)
	f.logFaults(last.faults, next)
	var removed, changed []*integration.Integration
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		was, now := last.byID[id], next.byID[id]
		switch {
		case was.in == now.in:
		case now.in == nil:
			removed = append(removed, was.in)
			f.log.Info("integration removed", "integration", id)
		default:
			changed = append(changed, now.in)
			f.log.Info("integration loaded", "integration", id, "revision", now.in.Revision, "file", now.from.path)
			if now.from.Ungranted {
				f.log.Warn("integration has no grants: nobody may use it", "integration", id)
			}
		}
	}
	if f.onChange != nil && len(removed)+len(changed) > 0 {
		f.onChange(removed, changed)
	}
}

// logFaults reports each distinct fault once, not at every poll.
func (f *Store) logFaults(last []registry.FileFault, next *snapshot) {
	known := make(map[string]string, len(last))
	for _, ff := range last {
		known[ff.File] = ff.Faults.Error()
	}
	for _, ff := range next.faults {
		text := ff.Faults.Error()
		switch {
		case known[ff.File] == text:
		case ff.File == f.dir:
			f.log.LogAttrs(context.Background(), slog.LevelError, "integrations directory is at fault; what was served last is still served",
				slog.String("dir", ff.File), slog.String("faults", text), slog.Int("still_serving", len(next.sorted)))
		default:
			f.log.LogAttrs(context.Background(), slog.LevelError, "integration file is not acceptable",
				slog.String("file", ff.File), slog.String("faults", text), slog.String("still_serving", ff.Serving))
		}
		delete(known, ff.File)
	}
	for file := range known {
		if file == f.dir {
			f.log.Info("integrations directory is no longer at fault", "dir", file)
			continue
		}
		f.log.Info("integration file is no longer at fault", "file", file)
	}
}
