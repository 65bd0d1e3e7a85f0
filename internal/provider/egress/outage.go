package egress

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
)

// Outage is a failure below HTTP.
type Outage struct {
	// Text continues a sentence that begins with the name of what failed; empty if
	// the failure is not known.
	Text string
	// Cause is for the log. It quotes nothing that the server sent.
	Cause error
	// MissingHost is the name that the DNS does not have, if that is the failure.
	MissingHost string
	// Transient means that a second attempt moments later may succeed.
	Transient bool
}

// Advice names the settings of an integration that fix some outages.
type Advice struct {
	// CAFile is the setting that adds roots, such as "azure.ca_file".
	CAFile string
	// PrivateEndpoint is the setting that permits private addresses.
	PrivateEndpoint string
	// Store is the kind of server that would have a public address, such as "vault".
	Store string
}

// OutageOf converts an error of a client of NewClient to an Outage.
func OutageOf(err error, advice Advice) Outage {
	var proxied *ProxyError
	if errors.As(err, &proxied) {
		return proxied.outage(advice)
	}
	return outageOf(err, advice)
}

func outageOf(err error, advice Advice) Outage {
	var (
		egress *OriginError
		misled *AddressError
		answer AnswerError
		dns    *net.DNSError
		verify *tls.CertificateVerificationError
		record tls.RecordHeaderError
		op     *net.OpError
		proxy  *proxyURLError
	)
	untrusted := "presents a certificate that cannot be verified; set " + advice.CAFile + " if a private CA or an inspecting proxy issued it"
	const noTLS = "does not complete the TLS handshake; check what listens there"
	switch {
	case errors.As(err, &proxy):
		return Outage{Text: "is not contacted: the URL of the proxy in the environment variable " + proxy.variable + " is invalid; correct it, and write special characters in the user and password as %XX", Cause: proxy}
	case errors.As(err, &egress):
		return Outage{Text: "led to a host that the integration does not list, so nothing was sent", Cause: egress}
	case errors.As(err, &misled):
		return Outage{Text: "resolves to an address that no public " + advice.Store + " has, so nothing was sent; if it is a private endpoint, set " + advice.PrivateEndpoint, Cause: misled}
	case errors.As(err, &answer):
		return Outage{Text: "sent something other than the secret; check for a proxy or gateway in between", Cause: answer}
	case errors.As(err, &dns) && dns.IsNotFound:
		return Outage{Text: "cannot be reached: a host name on the way to it does not exist in the DNS", Cause: dns, MissingHost: strings.TrimSuffix(dns.Name, ".")}
	case errors.As(err, &dns):
		return Outage{Text: "cannot be reached: the DNS server does not respond", Cause: dns, Transient: !dns.IsTimeout}
	case errors.As(err, &verify):
		return Outage{Text: untrusted, Cause: verify}
	case errors.Is(err, http.ErrSchemeMismatch):
		return Outage{Text: noTLS, Cause: http.ErrSchemeMismatch}
	case errors.As(err, &record):
		return Outage{Text: noTLS, Cause: errors.New("tls: " + record.Msg)}
	case errors.As(err, &op) && (op.Op == "remote error" || op.Op == "local error"): // an alert of crypto/tls
		return Outage{Text: noTLS, Cause: op}
	case errors.Is(err, ErrTimedOut), isTimeout(err), lostConnection(err):
		return Outage{Text: "did not answer in time", Cause: ErrTimedOut}
	case errors.Is(err, syscall.ECONNREFUSED):
		return Outage{Text: "refuses the connection", Cause: syscall.ECONNREFUSED, Transient: true}
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return Outage{Text: "cannot be reached: there is no route to it", Cause: syscall.EHOSTUNREACH, Transient: true}
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.As(err, new(streamError)):
		return Outage{Text: "closed the connection", Cause: io.ErrUnexpectedEOF, Transient: true}
	case errors.As(err, &op):
		return Outage{Text: "cannot be reached", Cause: fmt.Errorf("%s failed on the network", word(op.Op)), Transient: true}
	default:
		return Outage{Cause: fmt.Errorf("an error of type %T, not shown because it may quote the response", innermost(err)), Transient: errors.As(err, new(net.Error))}
	}
}

// streamError has the same fields as net/http's error for a reset HTTP/2 stream,
// which errors.As can convert to it.
type streamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (streamError) Error() string { return "egress: the stream was reset" }

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// lostConnection reports whether err is net/http's error for requests on a connection
// that did not answer HTTP/2 pings. net/http does not export that error.
func lostConnection(err error) bool { return innermost(err).Error() == "http2: client connection lost" }

// word returns s if it is a word of letters and hyphens, and "" otherwise.
func word(s string) string {
	if len(s) > 64 || strings.ContainsFunc(s, func(r rune) bool { return (r|0x20 < 'a' || r|0x20 > 'z') && r != '-' }) {
		return ""
	}
	return s
}

func innermost(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}
