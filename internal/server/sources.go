package server

import (
	"container/list"
	"net"
	"net/netip"
)

// sources keeps handshakes by the address that they come from, and finds the one to
// end when there are too many. The zero sources is empty. It is not safe for
// concurrent use.
type sources struct {
	of map[netip.Prefix]*source
	// level[n] are the sources of n handshakes, of *source, those that have been
	// there for longest first; most is the highest level that is in use.
	level []*list.List
	most  int
	count int
}

// source is one address that handshakes come from.
type source struct {
	from       netip.Prefix
	handshakes list.List // of *handshake, the oldest first
	at         *list.Element
}

// sourceOf returns where a connection comes from: its IPv4 address, or the /64 of
// its IPv6 address, which is the least that one host is given.
func sourceOf(addr net.Addr) netip.Prefix {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	prefix, _ := ip.Prefix(bits) // zero for no address
	return prefix
}

// add keeps a handshake.
func (s *sources) add(h *handshake) {
	from := sourceOf(h.RemoteAddr())
	src := s.of[from]
	if src == nil {
		if s.of == nil {
			s.of = make(map[netip.Prefix]*source)
		}
		src = &source{from: from}
		s.of[from] = src
	}
	h.source = src
	h.at = src.handshakes.PushBack(h)
	s.count++
	s.move(src)
}

// remove forgets a handshake.
func (s *sources) remove(h *handshake) {
	src := h.source
	src.handshakes.Remove(h.at)
	h.source, h.at = nil, nil
	s.count--
	s.move(src)
	if src.handshakes.Len() == 0 {
		delete(s.of, src.from)
	}
}

// move puts a source, which has one handshake more or less than before, on its
// level.
func (s *sources) move(src *source) {
	now := src.handshakes.Len()
	if src.at != nil {
		for _, before := range []int{now - 1, now + 1} {
			if before > 0 && before < len(s.level) {
				s.level[before].Remove(src.at) // of the list that it is in, and no other
			}
		}
		src.at = nil
	}
	for len(s.level) <= now {
		s.level = append(s.level, list.New())
	}
	if now > 0 {
		src.at = s.level[now].PushBack(src)
	}
	s.most = max(s.most, now)
	for s.most > 0 && s.level[s.most].Len() == 0 {
		s.most--
	}
}

// worst returns the oldest handshake of a source that has the most, nil if there is
// none.
func (s *sources) worst() *handshake {
	if s.most == 0 {
		return nil
	}
	src, _ := s.level[s.most].Front().Value.(*source) // nothing else is in it
	h, _ := src.handshakes.Front().Value.(*handshake) // nor here
	return h
}
