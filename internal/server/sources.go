package server

import (
	"container/list"
	"net"
	"net/netip"
)

// sources groups handshakes by the address of the peer, and selects the one to end if there
// are too many. The zero sources is empty. It is not safe for concurrent use.
type sources struct {
	of map[netip.Prefix]*source
	// level[n] lists the sources (*source) with n handshakes, in the order in which they
	// got that number; most is the highest level in use.
	level []*list.List
	most  int
	count int
}

// source is an address with handshakes.
type source struct {
	from       netip.Prefix
	handshakes list.List // of *handshake; oldest first
	at         *list.Element
}

// sourceOf returns the source of a connection: its IPv4 address, or the /64 of its IPv6
// address, because a provider assigns at least a /64 to one host.
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
	prefix, _ := ip.Prefix(bits) // the zero Prefix if there is no address
	return prefix
}

// add adds a handshake.
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

// remove removes a handshake.
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

// move moves a source to the level of its current number of handshakes, which is one more or
// one less than before.
func (s *sources) move(src *source) {
	now := src.handshakes.Len()
	if src.at != nil {
		for _, before := range []int{now - 1, now + 1} {
			if before > 0 && before < len(s.level) {
				s.level[before].Remove(src.at) // src is in no other list
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

// worst returns the oldest handshake of a source that has the most; nil if there is none.
func (s *sources) worst() *handshake {
	if s.most == 0 {
		return nil
	}
	src, _ := s.level[s.most].Front().Value.(*source) // the list has no other type
	return src.oldest()
}

// oldest returns the oldest handshake of the source, which must have one.
func (s *source) oldest() *handshake {
	h, _ := s.handshakes.Front().Value.(*handshake) // the list has no other type
	return h
}
