// Package syslog sends copies of an audit log's records to collectors.
//
// A copy is worth most on a machine that the broker's operators cannot write to: together
// with the hash chain it shows what was changed on the broker's machine later. The
// package sends messages of RFC 5424, which every collector accepts, with facility 13, "log
// audit". The text of a message is the line of the record, and its MSGID the record's type. Each datagram has one message
// (RFC 5426); on a stream, the length of each message precedes it (RFC 6587 section 3.4.1,
// RFC 5425).
//
// The standard library's log/syslog is frozen and writes only the older format.
package syslog

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Collector says where a collector listens and how to connect to it.
type Collector struct {
	// Network is unixgram, udp or tcp; Address a path or host:port.
	Network, Address string
	// TLS, if not nil, is the configuration of TLS over tcp.
	TLS *tls.Config
	// Current, if not nil, returns the configuration of a new connection, made from TLS
	// with the current authorities and certificate.
	Current func(*tls.Config) *tls.Config
}

// String returns the URL in the form that Parse accepts.
func (s Collector) String() string {
	switch {
	case s.Network == "unixgram":
		return "unix://" + s.Address
	case s.TLS != nil:
		return "tls://" + s.Address
	default:
		return s.Network + "://" + s.Address
	}
}

// Parse parses unix:///PATH, udp://HOST:PORT, tcp://HOST:PORT and
// tls://HOST:PORT. For the last one it sets TLS to verify HOST with the system's
// authorities, with TLS 1.2 or later.
func Parse(s string) (Collector, error) {
	bad := errors.New("expected unix:///dev/log, udp://HOST:PORT, tcp://HOST:PORT or tls://HOST:PORT")
	u, err := url.Parse(s)
	if err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" {
		return Collector{}, bad
	}
	if u.Scheme == "unix" {
		if u.Host != "" || len(u.Path) < 2 {
			return Collector{}, bad
		}
		return Collector{Network: "unixgram", Address: u.Path}, nil
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil || port == 0 || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" {
		return Collector{}, bad
	}
	switch u.Scheme {
	case "udp", "tcp":
		return Collector{Network: u.Scheme, Address: u.Host}, nil
	case "tls":
		return Collector{Network: "tcp", Address: u.Host, TLS: &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}}, nil
	default:
		return Collector{}, bad
	}
}

// header has the parts that are the same in every message; RFC 5424 section 6.2.
type header struct{ before, after string }

func newHeader() header {
	const facility, severity = 13, 6 // log audit, informational
	host, err := os.Hostname()
	if err != nil || host == "" || len(host) > 255 || strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r > '~' }) {
		host = "-"
	}
	return header{
		before: "<" + strconv.Itoa(facility*8+severity) + ">1 ",
		after:  " " + host + " secretbroker " + strconv.Itoa(os.Getpid()) + " ",
	}
}

// message returns the message whose text is line.
func (h header) message(now time.Time, line []byte) []byte {
	m := make([]byte, 0, len(h.before)+32+len(h.after)+len(line))
	m = append(m, h.before...)
	m = now.UTC().AppendFormat(m, "2006-01-02T15:04:05.000000Z07:00")
	m = append(m, h.after...)
	m = append(m, messageID(line)...)
	m = append(m, " - "...)
	return append(m, line...)
}

// messageID returns the type of the record, by which a collector can route messages.
func messageID(line []byte) []byte {
	_, rest, ok := bytes.Cut(line[:min(len(line), 64)], []byte(`,"type":"`))
	id, _, ended := bytes.Cut(rest, []byte{'"'})
	if !ok || !ended || len(id) == 0 || bytes.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return []byte("audit")
	}
	return id
}

// sender keeps a connection to a collector. It is not safe for concurrent use.
type sender struct {
	collector Collector
	header    header
	conn      net.Conn
	reader    sync.WaitGroup
}

// send writes one record to the connection, and connects first if needed. It returns by
// the end of ctx and within sendTime. After an error the connection is closed.
func (s *sender) send(ctx context.Context, line []byte) error {
	ctx, cancel := context.WithTimeout(ctx, sendTime)
	defer cancel()
	if s.conn == nil {
		if err := s.dial(ctx); err != nil {
			return err
		}
	}
	m := s.header.message(time.Now(), line)
	if s.collector.Network == "tcp" {
		m = append(strconv.AppendInt(make([]byte, 0, len(m)+8), int64(len(m)), 10), append([]byte{' '}, m...)...)
	}
	conn := s.conn
	stop := context.AfterFunc(ctx, func() { _ = conn.SetWriteDeadline(time.Unix(1, 0)) })
	_, err := conn.Write(m)
	if !stop() && err == nil { // ctx ended: the write deadline may be set
		s.close()
		return nil
	}
	if err != nil {
		s.close()
	}
	return err
}

func (s *sender) dial(ctx context.Context) error {
	var err error
	if s.collector.TLS != nil {
		config := s.collector.TLS
		if s.collector.Current != nil {
			config = s.collector.Current(config)
		}
		s.conn, err = (&tls.Dialer{Config: config}).DialContext(ctx, s.collector.Network, s.collector.Address)
	} else {
		s.conn, err = (&net.Dialer{}).DialContext(ctx, s.collector.Network, s.collector.Address)
	}
	if err != nil {
		s.conn = nil
		return err
	}
	if s.collector.Network == "tcp" {
		// A collector sends nothing. Read nevertheless, because only a read notices
		// that the collector has closed the connection. The next write then fails
		// instead of being lost.
		conn := s.conn
		s.reader.Go(func() {
			_, _ = io.Copy(io.Discard, conn)
			_ = conn.Close()
		})
	}
	return nil
}

func (s *sender) close() {
	if s.conn != nil {
		_ = s.conn.Close() // Write has reported data that was not sent
		s.conn = nil
	}
	s.reader.Wait()
}
