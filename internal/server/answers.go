package server

import (
	"sync/atomic"

	"github.com/secretbroker/secretbroker/internal/budget"
	"github.com/secretbroker/secretbroker/internal/wirecodec"
)

// answer is an answer that is charged to the account until it has been written.
type answer struct {
	traffic *traffic
	charged int64 // guarded by traffic.mu
}

// queue transfers reserved bytes to the answer of a handler that has returned.
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

// release reduces the charge of an answer to left bytes. It requires the lock.
func (t *traffic) release(a *answer, left int64) {
	if a.charged > left {
		t.account.Release(a.charged - left)
		a.charged = left
	}
	if left == 0 {
		delete(t.answers, a)
	}
}

// Encoded implements wirecodec.Keeper: only the encoding of the answer is left.
func (a *answer) Encoded(size int) {
	a.traffic.mu.Lock()
	defer a.traffic.mu.Unlock()
	a.traffic.release(a, int64(size))
}

// Gone implements wirecodec.Keeper: gRPC has written the answer or dropped it.
func (a *answer) Gone() {
	a.traffic.mu.Lock()
	defer a.traffic.mu.Unlock()
	a.traffic.release(a, 0)
}

// callMemory accounts for the memory that the values of one call use. It is safe for
// concurrent use.
type callMemory struct {
	account  *budget.Account // nil: nothing is charged
	values   atomic.Int64
	reserved atomic.Int64
	refused  atomic.Bool // if true, all further reservations are refused
}

// work records that a handler works on a call.
func (t *traffic) work(cc *callContext) {
	t.handlers.Add(1)
	cc.memory.account = t.account
	cc.call.who.Memory = &cc.memory
}

// worked records that the handler of a call has returned. The memory that was reserved for
// its values stays reserved until the answer has been written.
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
	// valueCopies is the number of copies of a value while the broker makes an answer:
	// the selected one, the one in the message, and the encoded one.
	valueCopies = 3
	// freeValues is what the values of a call may use in addition to streamBytes.
	freeValues = 4 << 10
)

// Reserve implements resolve.Memory.
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
