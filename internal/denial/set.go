package denial

import (
	"sync"
	"sync/atomic"
)

// Source names one of the lists in a Set.
type Source string

// The sources.
const (
	FromFile     Source = "file"
	FromDatabase Source = "database"
)

// Set combines the lists of the sources into the list in effect. It is safe for concurrent
// use, and Current takes no lock.
type Set struct {
	current atomic.Pointer[inForce]

	mu    sync.Mutex
	lists map[Source]*List
}

// inForce is a list in effect. superseded is closed when another one takes its place.
type inForce struct {
	list       *List
	superseded chan struct{}
}

// NewSet returns a Set without entries.
func NewSet() *Set {
	s := &Set{lists: make(map[Source]*List)}
	s.current.Store(&inForce{list: NewList(nil), superseded: make(chan struct{})})
	return s
}

// Current returns the list in effect. Two calls return the same pointer if and only if the
// list has not been replaced between them.
func (s *Set) Current() *List { return s.current.Load().list }

// Changed returns a channel that is closed when the list that is in effect at the time of the
// call has been replaced.
func (s *Set) Changed() <-chan struct{} { return s.current.Load().superseded }

// Put replaces the list of a source. The new list is in effect when Put returns.
func (s *Set) Put(from Source, l *List) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lists[from] == l {
		return
	}
	s.lists[from] = l
	var all []Entry
	for _, source := range []Source{FromFile, FromDatabase} {
		all = append(all, s.lists[source].Entries()...)
	}
	previous := s.current.Swap(&inForce{list: NewList(all), superseded: make(chan struct{})})
	close(previous.superseded)
}

// Count returns the number of entries of a source, including those that have expired.
func (s *Set) Count(from Source) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.lists[from].Entries())
}
