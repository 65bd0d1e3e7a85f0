// Package dirstore implements a registry.Store of integrations that are files in a
// directory. It watches the directory and serves the current content.
//
// # Reading
//
// Every .yaml or .yml file in the directory defines one integration, and may refer to
// further files: credentials, tokens and CA certificates. Open reads all of them. The
// result is a snapshot, an immutable map from ids to integrations. Readers load the
// current snapshot without a lock; a reload builds the next one and replaces the pointer.
//
// A faulty file does not affect the others. If it never was valid, its integration is not
// served. If it was, its last valid content is served until the file is fixed or removed.
//
// # Changes
//
// Run learns of changes from the system's notifications and, for what these do not cover,
// from polls. After a notification it waits for a moment (debounce), because writing a
// file or swapping a mounted ConfigMap takes several steps. All files that changed in the
// meantime are then applied together, in one snapshot: two files may exchange their ids,
// or one may take over the id of a renamed file, and a file-by-file update would find a
// duplicate id or a missing integration in between.
//
// # Stamps
//
// A poll reads only files whose stamps have changed. A stamp consists of a file's size,
// inode, mode, modification time and, where the system records one, change time. It is
// always taken before the content is read, so a write during the read changes the stamp,
// and the next poll reads the file again.
//
// Two writes within one tick of the file system's clock have the same time. An equal stamp
// therefore proves equal content only if the file was last changed some time before it was
// read. Such a file is called stable; a poll reads all other files, until they are stable.
// Files at fault are never stable, because a fix need not change their stamps. The same
// distinction applies to the directory and its list of files. Reload does not rely on
// stamps and reads every file.
//
// # Races
//
// While another directory replaces the watched one, all files are missing for a moment. A
// file that is missing when it is to be read therefore keeps its integration; only a
// listing of the directory proves that the file was removed. A notification may arrive
// after the file has changed again: Run always reads the current content. Notifications
// may be lost: Run then reads all files.
//
// # Held files
//
// If one file disappears, its integration is removed at once, because this may be a
// revocation. If several files disappear in one look, or all of them with the directory,
// the likely cause is an accident, such as an unmounted volume. These files are held:
// their integrations are served for five more minutes, or until Reload confirms the
// removal.
//
// # Age
//
// A look is a pass over all files: a poll, or a read of every file. Reading may hang, for
// example on a network file system, and the goroutine that hangs cannot report it. The
// Store therefore records when the last complete look began. Status reports a Problem if
// that time is overdue, and Get returns ErrUnavailable if it is more than 15 minutes ago,
// so that a revocation that cannot be read takes effect in bounded time.
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

// Config is the configuration of a Store. Only Kinds and Dir are required.
type Config struct {
	// Kinds are the supported kinds of stores.
	Kinds *integration.Kinds
	// Dir is the directory. Every .yaml or .yml file in it defines one integration. Hidden
	// files, other files and subdirectories are ignored. Files should be replaced by
	// renaming: a file that is overwritten in place may be read when it is half written,
	// and half a list of grants can be a valid file.
	Dir string
	// Logger receives every change and every fault; nil discards them.
	Logger *slog.Logger
	// PollInterval is the time between the polls of Run, which find changes without a
	// notification, such as those of credential files; 0 means 5 s. A poll compares sizes
	// and time stamps. Where the system records a change time, a poll finds every write.
	PollInterval time.Duration
	// OnChange, if not nil, is called after the current snapshot has changed. removed are
	// the integrations that are no longer served, in their last state; changed are those
	// that are new or differ, in their new state. Calls do not overlap. OnChange must not
	// call Reload.
	OnChange func(removed, changed []*integration.Integration)
	// Now returns the current time, from which the ages of files are calculated; nil means
	// time.Now.
	Now func() time.Time
	// PoliciesOnly leaves the files that integrations refer to unread. It is for questions
	// about grants where the credentials are absent, as in the checkout of a pull request.
	PoliciesOnly bool
}

// Store serves the integrations of a directory. It is safe for concurrent use.
//
// A faulty file does not affect the others. At start its integration is not served; later,
// its last valid content is served until the file is fixed or removed. If two files
// declare the same id, the file that already serves it keeps it; if neither does, the id
// is not served.
//
// Deleting one file removes its integration at once. If several files disappear in one
// look, or all of them with the directory, they are held: their integrations are served
// for five more minutes, or until Reload, and Faults lists the files.
//
// While no look completes, because reading hangs or the directory cannot be read, Status
// reports it. After 15 minutes Get returns ErrUnavailable.
type Store struct {
	dir      string
	log      *slog.Logger
	interval time.Duration // between polls
	kinds    *integration.Kinds
	onChange func(removed, changed []*integration.Integration)
	now      func() time.Time
	blind    bool // PoliciesOnly

	current atomic.Pointer[snapshot]
	roles   registry.RoleIndex

	reload     sync.Mutex // serializes reloads and guards the fields below; readers do not take it
	listing    listing
	expected   *expected                     // nil until the first poll
	files      map[string]*file              // by path
	declared   index                         // by the declared id
	named      index                         // by the path of a referenced file
	linked     int                           // number of files with linked set
	faulty     map[string]registry.FileFault // by path
	unreadable string                        // why the directory cannot be read, or ""
	vanished   vanished

	seen      atomic.Pointer[time.Time] // when the last complete look began
	took      atomic.Int64              // how long it took, in nanoseconds
	late      late
	overdue   chan struct{} // has an element while a call waits for Run to look
	running   atomic.Bool   // whether Run looks
	heldCount atomic.Int64  // integrations served from held files
	reloading chan struct{} // has an element while a Reload is in progress
}

// Open reads the directory. It returns an error if the directory cannot be read, but not
// for faulty files, which Faults returns. Later changes take effect through Run or Reload.
func Open(c Config) (*Store, error) {
	dir, err := filepath.Abs(c.Dir)
	if c.Dir == "" || err != nil {
		return nil, fmt.Errorf("registry: a directory of integrations is required")
	}
	f := &Store{dir: dir, kinds: c.Kinds, log: c.Logger, interval: c.PollInterval, now: c.Now, blind: c.PoliciesOnly, reloading: make(chan struct{}, 1), overdue: make(chan struct{}, 1)}
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
	if err := f.poll(); err != nil { // no file is known, so this reads all of them
		return nil, fmt.Errorf("registry: %w", err)
	}
	f.onChange = c.OnChange // set here because the initial content is not a change
	if len(f.files) == 0 {
		f.log.Warn("no integrations: the directory has no .yaml file", "dir", dir)
	}
	return f, nil
}

// Validate reads the directory as Open does. It returns the integrations that would be
// served, sorted by ID, and all faults.
func Validate(kinds *integration.Kinds, dir string) ([]*integration.Integration, strictyaml.Faults) {
	return validate(Config{Kinds: kinds, Dir: dir})
}

// ReadPolicies is like Validate, but does not read the files that integrations refer to.
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

// Get returns the integration with this id. It returns ErrNotFound if there is none, and
// ErrUnavailable if the last complete look is more than 15 minutes ago. It takes no lock
// unless the process was suspended.
func (f *Store) Get(id string) (*integration.Integration, error) {
	if !f.mayServe() {
		return nil, registry.ErrUnavailable
	}
	if s, ok := f.current.Load().byID[id]; ok {
		return s.in, nil
	}
	return nil, registry.ErrNotFound
}

// List returns the integrations that are served, sorted by ID.
func (f *Store) List() []*integration.Integration { return slices.Clone(f.current.Load().sorted) }

// WithRole returns the integrations of List on which who has a role, sorted by ID. Like
// Get, it may return ErrUnavailable.
func (f *Store) WithRole(who authz.Principal) ([]*integration.Integration, error) {
	if !f.mayServe() {
		return nil, registry.ErrUnavailable
	}
	return f.roles.Find(f.current.Load().sorted, who), nil
}

// Faults returns the files that are currently at fault, sorted by path.
func (f *Store) Faults() []registry.FileFault { return slices.Clone(f.current.Load().faults) }

// lookAtAll polls and then reads every file. If confirmed, the removal of files that
// vanished together takes effect; otherwise they are held.
func (f *Store) lookAtAll(confirmed bool) {
	for _, how := range []func() error{f.poll, f.readAll} {
		f.update(func() error {
			f.vanished.confirmed = confirmed
			defer func() { f.vanished.confirmed = false }()
			return how()
		})
	}
}

// update applies changes with how: poll, readAll or noticed. It publishes a fault if how
// fails to read the directory or if files are held.
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
		next := &snapshot{byID: last.byID, sorted: last.sorted}
		f.describeFaults(next)
		f.publish(next, nil)
	}
}

// install replaces the state of the files at paths with loaded, where nil means a removed
// file, and publishes the resulting snapshot. Only Open and callers that hold f.reload may
// call it.
func (f *Store) install(paths []string, loaded []*file) {
	last := f.current.Load()
	if c := f.replace(paths, loaded, last); len(c.files)+len(c.ids) > 0 {
		f.publish(f.nextSnapshot(c, last), c.ids)
	}
}

// publish makes next the current snapshot and reports which of ids changed.
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
			f.log.Info("integration removed", "integration_id", id)
		default:
			changed = append(changed, now.in)
			f.log.Info("integration loaded", "integration_id", id, "integration_revision", now.in.Revision, "file", now.from.path)
			if now.from.Ungranted {
				f.log.Warn("integration has no grants: no principal may use it", "integration_id", id)
			}
		}
	}
	if f.onChange != nil && len(removed)+len(changed) > 0 {
		f.onChange(removed, changed)
	}
}

// logFaults logs each distinct fault once, not at every poll.
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
			f.log.LogAttrs(context.Background(), slog.LevelError, "the integrations directory is invalid; the last valid state remains in effect",
				slog.String("dir", ff.File), slog.String("faults", text), slog.Int("still_serving", len(next.sorted)))
		default:
			f.log.LogAttrs(context.Background(), slog.LevelError, "integration file is invalid",
				slog.String("file", ff.File), slog.String("faults", text), slog.String("still_serving", ff.Serving))
		}
		delete(known, ff.File)
	}
	for file := range known {
		if file == f.dir {
			f.log.Info("the integrations directory is valid again", "dir", file)
			continue
		}
		f.log.Info("integration file is valid again", "file", file)
	}
}
