package usage

import (
	"sync"

	"github.com/secretbroker/secretbroker/internal/authz"
)

const (
	// maxConnectors is the maximum number of connector names of one principal that are
	// distinguished. Callers choose these names.
	maxConnectors = 256
	// shareOf is the reciprocal of one principal's maximum share of all entries.
	shareOf = 8
)

// shares limits the entries of each principal, so that a principal that invents names cannot
// displace the entries of others. It is used only for uses that are not in memory yet.
type shares struct {
	mu   sync.Mutex
	most int // maximum number of entries of one principal
	of   map[authz.Principal]*share
}

type share struct {
	entries    int
	connectors map[string]int // number of entries of each name
}

// join counts a new entry and reports whether the principal may have it under the connector's
// name. If not, it counts nothing.
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

// leave reverses join.
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
