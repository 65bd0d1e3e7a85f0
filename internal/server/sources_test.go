package server

import (
	"math/rand/v2"
	"net"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// peerConn is a connection from a given address.
type peerConn struct {
	net.Conn
	from   net.Addr
	closed bool
}

func (c *peerConn) RemoteAddr() net.Addr { return c.from }
func (c *peerConn) Close() error         { c.closed = true; return nil }

func from(ip string) *peerConn { return &peerConn{from: &net.TCPAddr{IP: net.ParseIP(ip), Port: 1}} }

// TestAFloodDisplacesItself: however many handshakes one address starts, those of other
// addresses stay, except those of the same host's other IPv6 addresses.
func TestAFloodDisplacesItself(t *testing.T) {
	for _, tt := range []struct {
		name          string
		honest, flood func(i int) string
	}{
		{"IPv4", func(int) string { return "192.0.2.1" }, func(int) string { return "192.0.2.2" }},
		{"IPv4 in IPv6", func(int) string { return "192.0.2.1" }, func(int) string { return "::ffff:192.0.2.2" }},
		{"one /64", func(int) string { return "2001:db8::1" }, func(i int) string {
			return net.IP{0x20, 1, 0xd, 0xb8, 0, 0, 0, 1, 8: byte(i >> 8), 9: byte(i), 15: 0}.String()
		}},
	} {
		h := &handshakes{limit: 16, displaced: prometheus.NewCounter(prometheus.CounterOpts{})}
		var honest []*handshake
		for i := range 4 {
			honest = append(honest, h.begin(from(tt.honest(i))))
		}
		for i := range 19_000 {
			h.begin(from(tt.flood(i)))
		}
		if n := h.count(); n != 16 {
			t.Errorf("%s: %d handshakes are active", tt.name, n)
		}
		for _, conn := range honest {
			if h.end(conn) {
				t.Errorf("%s: a handshake of the other address was displaced", tt.name)
			}
		}
	}
}

// TestSources compares sources with a plain list through random additions and removals.
func TestSources(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var s sources
	var kept []*handshake // the oldest first
	for range 20_000 {
		if len(kept) > 0 && r.IntN(2) == 0 {
			i := r.IntN(len(kept))
			s.remove(kept[i])
			kept = append(kept[:i], kept[i+1:]...)
		} else {
			ips := []string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "2001:db8:0:1::1"}
			h := &handshake{Conn: from(ips[r.IntN(len(ips))])}
			s.add(h)
			kept = append(kept, h)
		}
		count, most := make(map[*source]int), 0
		for _, h := range kept {
			count[h.source]++
			most = max(most, count[h.source])
		}
		got := s.worst()
		if s.count != len(kept) || s.most != most || len(s.of) != len(count) || (got == nil) != (most == 0) {
			t.Fatalf("%d are kept, %d at most from one of %d, want %d, %d of %d", s.count, s.most, len(s.of), len(kept), most, len(count))
		}
		if got == nil {
			continue
		}
		if count[got.source] != most {
			t.Fatalf("worst returned a handshake of a source with %d, the maximum is %d", count[got.source], most)
		}
		for _, h := range kept {
			if h.source == got.source {
				if h != got {
					t.Fatal("worst did not return the source's oldest handshake")
				}
				break
			}
		}
	}
}

func BenchmarkSources(b *testing.B) {
	h := &handshakes{limit: 1000, displaced: prometheus.NewCounter(prometheus.CounterOpts{})}
	conn := from("192.0.2.1")
	b.ReportAllocs()
	for b.Loop() {
		h.begin(conn)
	}
}
