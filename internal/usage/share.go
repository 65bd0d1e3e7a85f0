package usage

import (
	"sync"

	"github.com/secretbroker/secretbroker/internal/authz"
)

const (
	// maxConnectors is how many names of connectors are told apart of one principal:
	// they are its own word.
	maxConnectors = 256
	// shareOf is the part of all entries, one in so many, that one principal may have.
	shareOf = 8
)

// shares bound the entries of each principal, so that one that invents names takes
// no place of another. It is only asked about uses that are not in memory yet.
type shares struct {
	mu   sync.Mutex
	most int // entries of one principal
	of   map[authz.Principal]*share
}

type share struct {
	entries    int
	connectors map[string]int // entries of each name
}

// join counts one entry more, and reports whether the principal may have it under
// the connector's name; if not, nothing is counted.
func (s *shares) join(who authz.Principal, connector string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	mine := s.of[who]
	if mine == nil {
		mine = &share{connectors: make(map[string]int)}
		s.of[who] = mine
	}
	_, known := mine.connectors[connector]
	if mine.entries >= s.most || !known && connector != "" && len(mine.connectors) >= maxConnectors {
		return false
	}
	mine.entries++
	mine.connectors[connector]++
	return true
}

// leave is the end of what join has counted.
func (s *shares) leave(who authz.Principal, connector string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	mine := s.of[who]
	if mine.entries--; mine.entries == 0 {
		delete(s.of, who)
		return
	}
	if mine.connectors[connector]--; mine.connectors[connector] == 0 {
		delete(mine.connectors, connector)
	}
}
