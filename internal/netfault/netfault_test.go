package netfault

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo is a server that answers every byte with the byte name.
func echo(t *testing.T, name byte) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 64)
				for {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					for i := range buf[:n] {
						buf[i] = name
					}
					_, _ = c.Write(buf[:n])
				}
			}()
		}
	}()
	return l.Addr().String()
}

func start(t *testing.T, target string) *Proxy {
	t.Helper()
	p, err := Listen("127.0.0.1:0", target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func dial(t *testing.T, p *Proxy) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// ask sends a byte and returns the answer, or an error after wait.
func ask(c net.Conn, wait time.Duration) (byte, error) {
	if _, err := c.Write([]byte{'?'}); err != nil {
		return 0, err
	}
	return answer(c, wait)
}

func answer(c net.Conn, wait time.Duration) (byte, error) {
	_ = c.SetReadDeadline(time.Now().Add(wait))
	b := make([]byte, 1)
	_, err := io.ReadFull(c, b)
	return b[0], err
}

const long = 10 * time.Second

func expect(t *testing.T, c net.Conn, want byte) {
	t.Helper()
	if got, err := ask(c, long); err != nil || got != want {
		t.Errorf("the answer is %q, %v; want %q", got, err, want)
	}
}

func TestHold(t *testing.T) {
	p := start(t, echo(t, 'a'))
	old := dial(t, p)
	expect(t, old, 'a')
	p.Hold()
	fresh := dial(t, p)
	for name, c := range map[string]net.Conn{"an open connection": old, "a new connection": fresh} {
		if _, err := ask(c, 50*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
	}
	p.Release()
	for name, c := range map[string]net.Conn{"an open connection": old, "a new connection": fresh} {
		if got, err := answer(c, long); err != nil || got != 'a' {
			t.Errorf("%s after Release: %q, %v", name, got, err)
		}
	}
}

func TestSetTarget(t *testing.T) {
	p := start(t, echo(t, 'a'))
	old := dial(t, p)
	expect(t, old, 'a')
	p.SetTarget(echo(t, 'b'))
	expect(t, dial(t, p), 'b')
	expect(t, old, 'a')
}

func TestCutAndRefuse(t *testing.T) {
	p := start(t, echo(t, 'a'))
	c := dial(t, p)
	expect(t, c, 'a')
	p.Cut()
	if _, err := answer(c, long); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after Cut: %v", err)
	}
	p.Refuse(true)
	// The reset can arrive before Dial returns.
	var d net.Dialer
	if c, err := d.DialContext(t.Context(), "tcp", p.Addr()); err == nil {
		defer c.Close()
		if _, err := ask(c, long); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("while it refuses: %v", err)
		}
	} else if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("dial while it refuses: %v", err)
	}
	p.Refuse(false)
	expect(t, dial(t, p), 'a')
}

func TestDelayAndCounts(t *testing.T) {
	p := start(t, echo(t, 'a'))
	c := dial(t, p)
	expect(t, c, 'a')
	before := p.Stats()
	p.SetDelay(30 * time.Millisecond)
	began := time.Now()
	expect(t, c, 'a')
	if took := time.Since(began); took < 60*time.Millisecond {
		t.Errorf("the round trip took %v with a delay of 30 ms in each direction", took)
	}
	p.SetDelay(0)
	expect(t, c, 'a')
	// Bytes sent at once are one further round trip.
	if _, err := c.Write([]byte("???")); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := answer(c, long); err != nil {
			t.Fatal(err)
		}
	}
	if got := p.Stats().Sub(before); got != (Stats{ToServer: 5, ToClient: 5, RoundTrips: 3}) {
		t.Errorf("%+v", got)
	}
}
