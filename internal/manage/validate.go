package manage

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// Step is one step of the validation of an integration.
type Step = provider.Step

// maxValidating limits the number of concurrent validations: each opens the integration
// again and contacts its stores without waiting in their queues.
const maxValidating = 4

// validateTime limits the duration of one validation with all its steps.
const validateTime = 20 * time.Second

// Validate contacts the stores of an integration and returns the steps with their results.
func (s *Service) Validate(ctx context.Context, who Caller, id string) ([]provider.Step, error) {
	op := s.begin(who, methodValidate, id)
	if err := s.mayFind(who.Principal, id); err != nil { // a caller without a role must not use up validations
		return nil, op.answer(ctx, err)
	}
	// Before load, which parses the integration.
	select {
	case s.validating <- struct{}{}:
		defer func() { <-s.validating }()
	default:
		return nil, op.answer(ctx, secret.Errorf(secret.ReasonOverloaded, "the broker is validating other integrations; retry later"))
	}
	rec, err := s.load(ctx, who.Principal, id, authz.ToValidate)
	if err == nil && rec.Integration == nil {
		var faults []Fault
		for _, f := range rec.Faults {
			faults = append(faults, Fault{Setting: f.Path, Text: f.Text})
		}
		err = newInvalid("", faults...)
	}
	if err == nil && s.cfg.Validate == nil {
		err = secret.Errorf(secret.ReasonInternal, "this broker contacts no stores")
	}
	if err != nil {
		return nil, op.answer(ctx, err)
	}
	ctx, cancel := context.WithTimeout(ctx, validateTime)
	defer cancel()
	steps := s.validate(ctx, rec.Integration)
	if failed := failing(steps); failed != "" {
		op.note = "failed: " + failed
	}
	if err := op.answer(ctx, nil); err != nil {
		return nil, err
	}
	return steps, nil
}

// validate checks the organisation's rules first and then contacts the stores.
func (s *Service) validate(ctx context.Context, in *integration.Integration) []provider.Step {
	var steps []provider.Step
	if s.cfg.Placement.Restrict() {
		step := provider.Step{Step: provider.StepPlacement, Found: "complies with the organisation's rules"}
		if faults := s.cfg.Placement.Check(in.Kind, in.Placement); len(faults) > 0 {
			step = provider.Step{Step: provider.StepPlacement, Err: secret.Errorf(secret.ReasonPlacementDenied, "%s: %s", faults[0].Setting, faults[0].Text)}
		}
		steps = append(steps, step)
	}
	return append(steps, s.cfg.Validate(ctx, in)...)
}

// failing returns the names of the failed steps, "" if there are none.
func failing(steps []provider.Step) string {
	var names []string
	for i := range steps {
		step := &steps[i]
		if step.Err != nil {
			names = append(names, step.String())
		}
	}
	return strings.Join(names, ", ")
}

// WatchConfig configures a Watcher.
type WatchConfig struct {
	AtStart bool
	// Every is the time between rounds; 0 means one round only.
	Every time.Duration
}

// Watcher validates all integrations periodically and keeps the results. It is safe for
// concurrent use.
type Watcher struct {
	s   *Service
	cfg WatchConfig

	mu       sync.Mutex
	failures map[string]string // by integration
	ok       int
}

// NewWatcher returns a Watcher. Run runs it.
func NewWatcher(s *Service, cfg WatchConfig) *Watcher { return &Watcher{s: s, cfg: cfg} }

// Run validates until ctx ends.
func (w *Watcher) Run(ctx context.Context) error {
	if w.cfg.AtStart {
		w.round(ctx)
	}
	if w.cfg.Every == 0 {
		return nil
	}
	tick := time.NewTicker(w.cfg.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			w.round(ctx)
		}
	}
}

// round validates all integrations one after the other, to limit the load on the stores.
func (w *Watcher) round(ctx context.Context) {
	failures, ok := make(map[string]string), 0
	for _, in := range w.s.cfg.Store.List() {
		one, cancel := context.WithTimeout(ctx, validateTime)
		steps := w.s.validate(one, in)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if failed := failing(steps); failed == "" {
			ok++
		} else {
			failures[in.ID] = describeFailure(steps)
		}
	}
	w.mu.Lock()
	before := w.failures
	w.failures, w.ok = failures, ok
	w.mu.Unlock()
	for id, text := range failures {
		if before[id] != text {
			w.s.cfg.Logger.Warn("integration does not work", "integration_id", id, "problem", text)
		}
	}
	for id := range before {
		if _, still := failures[id]; !still {
			w.s.cfg.Logger.Info("integration works again", "integration_id", id)
		}
	}
}

func describeFailure(steps []provider.Step) string {
	for i := range steps {
		step := &steps[i]
		if step.Err != nil {
			e := secret.AsError(step.Err)
			return step.String() + ": " + string(e.Reason) + ": " + e.Message
		}
	}
	return ""
}

// Failures returns the failures of the last round by integration.
func (w *Watcher) Failures() map[string]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	failures := make(map[string]string, len(w.failures))
	for id, text := range w.failures {
		failures[id] = text
	}
	return failures
}

// Counts returns how many integrations worked and failed in the last round.
func (w *Watcher) Counts() (ok, failed int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ok, len(w.failures)
}
