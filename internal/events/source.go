package events

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/secretbroker/secretbroker/internal/backoff"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/task"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const (
	// receiveTime limits one Receive, and acknowledgeTime one Acknowledge.
	receiveTime     = time.Minute
	acknowledgeTime = 30 * time.Second
	// emptyPause is the pause after a Receive that returned at once without messages.
	emptyPause = time.Second
	// receiveRate is the maximum number of calls of Receive of one source per second, and
	// checkRate that of integrations for which it is checked whether they hold the secret of
	// an event.
	receiveRate, checkRate = 50, 20_000
	// maxEvents is the maximum number of events of one message that are used.
	maxEvents = 100
	// maxDeliveries is the number of deliveries after which a message that is not understood
	// is acknowledged.
	maxDeliveries = 3
	// reopenAfter is the number of failures in a row after which a source is opened again,
	// with its credential files as they are then.
	reopenAfter = 5
)

var pauses = backoff.Limits{First: time.Second, Longest: time.Minute}

// source is one source of events. Its goroutine runs run.
type source struct {
	receiver *Receiver
	id       string // see sourceID
	in       *integration.Integration
	cancel   context.CancelFunc
	queue    *sourceQueue
	receives *rate.Limiter
	checks   *rate.Limiter

	mu     sync.Mutex
	covers func(id string) bool // of a Central; nil for an integration's own source
	state  state
}

func (s *source) local() bool { return s.in.Kind == secret.KindLocalFile }

func (s *source) central() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.covers != nil
}

func (s *source) cover(covers func(string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.covers = covers
}

// run receives until ctx ends. It opens the source as often as necessary.
func (s *source) run(ctx context.Context) {
	for failures := 0; ctx.Err() == nil; {
		var es provider.EventSource
		err := s.during(opening, func() (err error) {
			es, err = s.receiver.cfg.Openers[s.in.Kind](ctx, s.in)
			return err
		})
		if err == nil {
			failures = s.receiveAll(ctx, es, failures)
			_ = s.during(closing, es.Close)
			continue
		}
		failures++
		s.pause(ctx, err, failures)
	}
}

// receiveAll receives until ctx ends or the source should be opened again. It takes and
// returns the number of failures in a row.
func (s *source) receiveAll(ctx context.Context, es provider.EventSource, failures int) int {
	for range reopenAfter {
		for {
			if s.receives.Wait(ctx) != nil {
				return failures
			}
			if err := s.receive(ctx, es); err != nil {
				if ctx.Err() != nil {
					return failures
				}
				failures++
				s.pause(ctx, err, failures)
				break
			}
			failures = 0
			s.works()
		}
		if ctx.Err() != nil {
			return failures
		}
	}
	return failures
}

// pause notes a failure and waits before the next attempt.
func (s *source) pause(ctx context.Context, err error, failures int) {
	if ctx.Err() != nil {
		return
	}
	failure := secret.AsError(err)
	s.failed(failure, failures)
	sleep(ctx, max(backoff.Jitter(pauses.After(failures)), min(failure.RetryAfter, pauses.Longest)))
}

// receive receives, handles and acknowledges messages once.
func (s *source) receive(ctx context.Context, es provider.EventSource) error {
	began := time.Now()
	var messages []provider.EventMessage
	err := s.during(receiving, func() (err error) {
		limited, cancel := context.WithTimeout(ctx, receiveTime)
		defer cancel()
		messages, err = es.Receive(limited)
		return err
	})
	if err != nil {
		return err
	}
	s.polled()
	if len(messages) == 0 {
		if time.Since(began) < emptyPause/10 {
			sleep(ctx, emptyPause)
		}
		return nil
	}
	done, err := s.handleAll(ctx, messages)
	if ctx.Err() != nil || len(done) == 0 {
		return err // the queue delivers them again, to another replica if this one stops
	}
	acknowledged := s.during(acknowledging, func() error {
		limited, cancel := context.WithTimeout(ctx, acknowledgeTime)
		defer cancel()
		return es.Acknowledge(limited, done)
	})
	return errors.Join(err, acknowledged)
}

// handleAll handles messages, and returns those to acknowledge.
func (s *source) handleAll(ctx context.Context, messages []provider.EventMessage) (done []provider.EventMessage, err error) {
	for i := range messages {
		m := &messages[i]
		s.arrived(m)
		ack := false
		contained := task.Contain(func() error {
			ack, err = s.handle(ctx, m)
			return nil
		})
		if contained != nil {
			ack = s.notUnderstood(m)
		}
		if err != nil || ctx.Err() != nil {
			return done, err
		}
		if ack {
			done = append(done, *m)
		}
	}
	return done, nil
}

// handle handles a message. ack is whether to acknowledge it. The error is why it cannot be
// handled now.
func (s *source) handle(ctx context.Context, m *provider.EventMessage) (ack bool, err error) {
	if m.Problem != "" || len(m.Events) > maxEvents {
		return s.notUnderstood(m), nil
	}
	if len(m.Events) == 0 {
		s.count(Ignored)
	}
	for i := range m.Events {
		e := m.Events[i]
		if e.Store == "" || e.Name == "" && !s.local() {
			return s.notUnderstood(m), nil
		}
		if e.Label == secret.AWSCurrent && s.in.Kind == secret.KindAWSSecretsManager {
			e.Label = ""
		}
		outcome, err := s.event(ctx, m, &e)
		if err != nil {
			return false, err
		}
		s.count(outcome)
	}
	return true, nil
}

// notUnderstood counts a message that is not understood, and reports whether to acknowledge
// it: another version of the broker, as during an upgrade, may understand it.
func (s *source) notUnderstood(m *provider.EventMessage) (ack bool) {
	if ack = m.Deliveries == 0 || m.Deliveries >= maxDeliveries; ack {
		s.count(NotUnderstood)
	}
	return ack
}

// during calls f, which does something that takes time, and contains its panic.
func (s *source) during(what activity, f func() error) error {
	s.begin(what)
	defer s.begin(idle)
	return task.Contain(f)
}
