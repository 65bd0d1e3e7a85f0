package azurekv

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"

	"github.com/secretbroker/secretbroker/internal/provider"
)

// hostileDNS answers each question about a host with the next of the host's lists of
// addresses, and repeats the last one. The questions for A and AAAA of one lookup
// count as one. It records the addresses that the client is permitted to connect to,
// and blocks connections to addresses of other machines.
type hostileDNS struct {
	mu        sync.Mutex
	answers   map[string][]string // addresses of each host, separated by spaces
	asked     map[string]int      // number of questions of type A
	connected []string
}

var errStopped = errors.New("stopped by the test")

func (d *hostileDNS) config(cfg provider.Config) provider.Config {
	cfg.Resolver = &net.Resolver{PreferGo: true, Dial: d.dial}
	cfg.Proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
	cfg.MaxRetries = -1
	cfg.Connecting = func(address string) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.connected = append(d.connected, address)
		if ap, err := netip.ParseAddrPort(address); err == nil && ap.Addr().IsLoopback() {
			return nil
		}
		return errStopped
	}
	return cfg
}

// dial returns the resolver's connection to its server: one question and one
// response, each after its length in two bytes.
func (d *hostileDNS) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	go func() { // ends when the resolver closes the connection
		defer server.Close()
		for {
			var length uint16
			if binary.Read(server, binary.BigEndian, &length) != nil {
				return
			}
			question := make([]byte, length)
			if _, err := io.ReadFull(server, question); err != nil {
				return
			}
			answer := d.answer(question)
			if _, err := server.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
				return
			}
		}
	}()
	return client, nil
}

func (d *hostileDNS) answer(question []byte) []byte {
	const header = 12
	var labels []string
	at := header
	for question[at] != 0 {
		n := int(question[at])
		labels = append(labels, string(question[at+1:at+1+n]))
		at += 1 + n
	}
	kind := binary.BigEndian.Uint16(question[at+1:])
	end := at + 5 // type and class
	d.mu.Lock()
	host := strings.ToLower(strings.Join(labels, "."))
	lists := d.answers[host]
	var list []string
	if len(lists) > 0 {
		// The questions for A and AAAA of one lookup arrive in any order.
		turn := d.asked[fmt.Sprint(host, kind)]
		d.asked[fmt.Sprint(host, kind)]++
		list = strings.Fields(lists[min(turn, len(lists)-1)])
	}
	d.mu.Unlock()
	b := append([]byte{question[0], question[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, question[header:end]...)
	for _, s := range list {
		a := netip.MustParseAddr(s)
		if a.Is4() != (kind == 1) {
			continue
		}
		b[7]++
		b = append(b, 0xc0, header) // the name in the question
		b = binary.BigEndian.AppendUint16(b, kind)
		b = append(b, 0, 1, 0, 0, 0, 0) // class IN, TTL 0
		b = binary.BigEndian.AppendUint16(b, uint16(a.BitLen()/8))
		b = append(b, a.AsSlice()...)
	}
	return b
}

func newHostileDNS(answers map[string][]string) *hostileDNS {
	return &hostileDNS{answers: answers, asked: make(map[string]int)}
}
