package server

import (
	"math/rand/v2"
	"net"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
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

func newHandshakes(limit, perSource int) *handshakes {
	counter := func() prometheus.Counter { return prometheus.NewCounter(prometheus.CounterOpts{Name: "x"}) }
	return &handshakes{limit: limit, perSource: perSource, displaced: counter(), displacedBySource: counter()}
}

// TestOneAddressHasItsShare: one address has at most its share of the handshakes, also
// while no other needs the rest, and loses only its own oldest ones.
func TestOneAddressHasItsShare(t *testing.T) {
	const share = 25
	h := newHandshakes(4*share, share)
	for _, ip := range []string{"192.0.2.1", "192.0.2.2", "2001:db8::1"} {
		before := h.count()
		var begun []*handshake
		for range 3 * share {
			begun = append(begun, h.begin(from(ip)))
		}
		if n := h.count() - before; n != share {
			t.Errorf("%s has %d handshakes, want %d", ip, n, share)
		}
		for i, conn := range begun {
			if displaced := conn.at == nil; displaced != (i < 2*share) || displaced != conn.Conn.(*peerConn).closed {
				t.Errorf("%s: handshake %d: displaced %v", ip, i, displaced)
			}
		}
		if h.end(begun[3*share-1]) || h.begin(from(ip)).at == nil || h.count()-before != share {
			t.Errorf("%s: no handshake can follow one that has ended", ip)
		}
	}
	if all, own := testutil.ToFloat64(h.displaced), testutil.ToFloat64(h.displacedBySource); all != 0 || own != 3*2*share {
		t.Errorf("%v handshakes were displaced because of all, %v because of their address; want 0, %d", all, own, 3*2*share)
	}
	for limit, want := range map[int]int{16: 16, 20: 16, 64: 32, 1000: 500} {
		if got := handshakesPerSource(limit); got != want {
			t.Errorf("of %d handshakes one address may have %d, want %d", limit, got, want)
		}
	}
}

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
		h := newHandshakes(16, 16)
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
	h := newHandshakes(1000, 1000)
	conn := from("192.0.2.1")
	b.ReportAllocs()
	for b.Loop() {
		h.begin(conn)
	}
}
