package server

import (
	"sync/atomic"

	"github.com/secretbroker/secretbroker/internal/budget"
	"github.com/secretbroker/secretbroker/internal/wirecodec"
)

// answer is an answer that is charged to the account until it has left.
type answer struct {
	traffic *traffic
	charged int64 // with traffic's lock
}

// queue takes over what was reserved for an answer whose handler is done.
func (t *traffic) queue(reserved int64) *answer {
	a := &answer{t, reserved}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.answers == nil {
		t.answers = make(map[*answer]struct{})
	}
	t.answers[a] = struct{}{}
	return a
}

// release gives back all but left bytes. The lock is held.
func (t *traffic) release(a *answer, left int64) {
	if a.charged > left {
		t.account.Release(a.charged - left)
		a.charged = left
	}
	if left == 0 {
		delete(t.answers, a)
	}
}

// Encoded is wirecodec.Keeper's: of the answer nothing is left but its encoding.
func (a *answer) Encoded(size int) {
	a.traffic.mu.Lock()
	defer a.traffic.mu.Unlock()
	a.traffic.release(a, int64(size))
}

// Gone is wirecodec.Keeper's: gRPC has written the answer, or dropped it.
func (a *answer) Gone() {
	a.traffic.mu.Lock()
	defer a.traffic.mu.Unlock()
	a.traffic.release(a, 0)
}

// callMemory is the memory that the values of one call take. It is safe for
// concurrent use.
type callMemory struct {
	account  *budget.Account // nil charges nobody
	values   atomic.Int64
	reserved atomic.Int64
	refused  atomic.Bool // then the rest of the call is as well
}

// work notes that a call is worked on.
func (t *traffic) work(cc *callContext) {
	t.handlers.Add(1)
	cc.memory.account = t.account
	cc.call.who.Memory = &cc.memory
}

// worked notes that a call is worked on no longer. What was reserved for its values
// is kept until the answer has left.
func (t *traffic) worked(cc *callContext, resp *any, err *error) {
	t.handlers.Add(-1)
	switch reserved := cc.memory.reserved.Load(); {
	case reserved == 0:
	case *err != nil || *resp == nil:
		t.account.Release(reserved)
	default:
		*resp = &wirecodec.Answer{Message: *resp, Keeper: t.queue(reserved)}
	}
}

const (
	// valueCopies is how often a value is in memory while its answer is made: as it
	// was selected, in the message, and encoded.
	valueCopies = 3
	// freeValues is what the values of a call may take beside its streamBytes.
	freeValues = 4 << 10
)

// Reserve is resolve.Memory's.
func (m *callMemory) Reserve(n int) bool {
	if m.refused.Load() {
		return false
	}
	need := valueCopies * int64(n)
	if m.values.Add(need) <= freeValues || m.account == nil {
		return true
	}
	if !m.account.Reserve(need) {
		m.refused.Store(true)
		return false
	}
	m.reserved.Add(need)
	return true
}
