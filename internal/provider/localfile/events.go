package localfile

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
	"github.com/secretbroker/secretbroker/internal/provider/task"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const (
	// receiveTime is how long Receive waits for a change.
	receiveTime = 20 * time.Second
	// maxNames is the maximum number of changed files of a directory that are named
	// individually. Beyond it, the event names the whole directory.
	maxNames = 64
	// maxMessages is the maximum number of messages that Receive returns.
	maxMessages = 10
)

// The types of events.
const (
	fileChanged      = "file changed"
	directoryChanged = "directory changed"
)

// EventSource implements integration.EventSettings. Directories need no setting to be
// watched; environment variables do not change.
func (l *Settings) EventSource() string {
	if len(l.Directories) == 0 {
		return ""
	}
	return "notifications of the file system"
}

// EventOpener returns the provider.EventOpener of local files. The source reports the files
// that the kernel says have changed. It starts watching with the first Receive, and reports
// no changes from before that.
func EventOpener(cfg provider.Config) provider.EventOpener {
	return func(_ context.Context, in *integration.Integration) (provider.EventSource, error) {
		local := settingsOf(in)
		if in.Kind != secret.KindLocalFile || local == nil || len(local.Directories) == 0 {
			return nil, storeerror.Setup("the integration has no local.directories, and nothing else of it can change")
		}
		return newNotifier(cfg.For(in).Logger, local.Directories), nil
	}
}

// notifier is a provider.EventSource. One goroutine of tasks watches the directories, and
// collects the changes until Receive takes them. The file system may block it for ever, see
// Fetch.
type notifier struct {
	log    *slog.Logger
	dirs   []string
	limits watchLimits
	tasks  *task.Group
	wake   chan struct{} // has an element if Receive has something to take

	mu      sync.Mutex
	running bool
	changes map[string]*change // by directory
	failed  error              // why the goroutine has ended
}

// change is what has changed in a directory since it was last reported.
type change struct {
	at    time.Time // of the first change
	all   bool      // names does not have everything
	names map[string]struct{}
}

// add adds the change of a name, or of unknown names if name is "".
func (c *change) add(name string) {
	switch {
	case c.all:
	case name == "" || len(c.names) == maxNames:
		c.all, c.names = true, nil
	case c.names == nil:
		c.names = map[string]struct{}{name: {}}
	default:
		c.names[name] = struct{}{}
	}
}

func newNotifier(log *slog.Logger, dirs []string) *notifier {
	return &notifier{log: log, dirs: dirs, limits: defaultLimits, tasks: task.NewGroup(), wake: make(chan struct{}, 1), changes: make(map[string]*change)}
}

var _ provider.EventSource = (*notifier)(nil)

// Receive implements provider.EventSource. It fails if the kernel reports no changes at all.
// If it reports those of some directories only, the log says so.
func (n *notifier) Receive(ctx context.Context) ([]provider.EventMessage, error) {
	if !n.start() {
		return nil, storeerror.Closed()
	}
	timer := time.NewTimer(receiveTime)
	defer timer.Stop()
	select {
	case <-n.wake:
	case <-timer.C:
	case <-ctx.Done():
	}
	return n.take()
}

// start starts the goroutine unless it is running. It returns false after Close.
func (n *notifier) start() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.running {
		return true
	}
	n.running = n.tasks.Start(func(closing context.Context) {
		err := watch(closing, n)
		n.mu.Lock()
		defer n.mu.Unlock()
		n.running, n.failed = false, err
		n.signal()
	})
	return n.running
}

// report adds changes to those that Receive takes.
func (n *notifier) report(changes map[string]*change) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for dir, c := range changes {
		before, ok := n.changes[dir]
		if !ok {
			n.changes[dir] = c
			continue
		}
		if c.all {
			before.add("")
		}
		for name := range c.names {
			before.add(name)
		}
	}
	n.signal()
}

func (n *notifier) signal() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// take returns the collected changes, a message for each directory, and forgets them.
func (n *notifier) take() (messages []provider.EventMessage, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.changes) == 0 {
		err, n.failed = n.failed, nil
		return nil, err
	}
	for _, dir := range slices.Sorted(maps.Keys(n.changes)) {
		if len(messages) == maxMessages {
			n.signal()
			break
		}
		messages = append(messages, n.changes[dir].message(dir))
		delete(n.changes, dir)
	}
	return messages, nil
}

// message returns the message about the change of a directory.
func (c *change) message(dir string) provider.EventMessage {
	m := provider.EventMessage{SentAt: c.at}
	if c.all {
		m.Events = []provider.Event{{Store: StoreOf(dir), At: c.at, Type: directoryChanged}}
	}
	for _, name := range slices.Sorted(maps.Keys(c.names)) {
		m.Events = append(m.Events, provider.Event{Store: StoreOf(dir), Name: name, At: c.at, Type: fileChanged})
	}
	return m
}

// Acknowledge implements provider.EventSource. There is no queue.
func (n *notifier) Acknowledge(context.Context, []provider.EventMessage) error { return nil }

// Close implements provider.EventSource.
func (n *notifier) Close() error { return n.tasks.Stop(closeTimeout) }

// Check implements provider.EventSource. It watches each directory for a moment. If that
// fails, the step is unchecked and not failed, because the broker also reads watched files
// every few seconds.
func (n *notifier) Check(ctx context.Context) []provider.Step {
	steps := make([]provider.Step, len(n.dirs))
	for i, dir := range n.dirs {
		steps[i] = provider.Step{Step: provider.StepEvents, Store: StoreOf(dir), Found: "the kernel reports changes of files"}
		why := make(chan string, 1)
		if !n.tasks.Start(func(context.Context) { why <- tryWatch(dir) }) {
			steps[i].Found, steps[i].Err = "", storeerror.Closed()
			continue
		}
		text := "the file system did not answer in time"
		select {
		case text = <-why:
		case <-ctx.Done():
		}
		if text != "" {
			steps[i].Unchecked = true
			steps[i].Found = "unknown: " + text + "; the broker reads watched files every few seconds in any case"
		}
	}
	return steps
}
