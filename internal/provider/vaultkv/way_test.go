package vaultkv

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// TestWayToTheServer: the error for a server that cannot be reached, or must not be,
// states what to do about it.
func TestWayToTheServer(t *testing.T) {
	stopped := errors.New("stopped by the test")
	for name, tc := range map[string]struct {
		address string
		private bool
		want    secret.Reason
		says    string
	}{
		"metadata service": {"https://169.254.169.254.nip.example.org", false, secret.ReasonStoreUnavailable, "vault.private_endpoint"},
		"private":          {"https://10.0.0.5.nip.example.org:8200", false, secret.ReasonStoreUnavailable, "vault.private_endpoint"},
		"private, allowed": {"https://10.0.0.5.nip.example.org:8200", true, secret.ReasonStoreUnavailable, "cannot be reached"},
		"loopback, never":  {"https://127.0.0.1.nip.example.org:8200", true, secret.ReasonStoreUnavailable, "vault.dial"},
		"no such name":     {"https://none.example.org:8200", false, secret.ReasonStoreNotFound, "vault.address"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFront(t, newFake())
			in := f.integration(t, roleID, secretID)
			settingsOf(in).Address, settingsOf(in).Dial, settingsOf(in).PrivateEndpoint = tc.address, "", tc.private
			cfg := f.Config()
			cfg.Proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
			cfg.Resolver = &net.Resolver{PreferGo: true, Dial: nipServer}
			var connected []string
			cfg.Connecting = func(address string) error {
				connected = append(connected, address)
				return stopped
			}
			s := f.open(t, cfg, in)
			r, err := secret.ParseRef(tc.address + "::secret/db")
			providertest.Must(t, err)
			_, err = s.Fetch(t.Context(), r)
			e := secret.AsError(err)
			if e.Reason != tc.want || !strings.Contains(e.Message, tc.says) {
				t.Errorf("%v", e)
			}
			if (len(connected) > 0) != (name == "private, allowed") {
				t.Errorf("connections to %v", connected)
			}
		})
	}
}

// nipServer is a connection to a DNS server that resolves A.B.C.D.nip.example.org to
// the address in the name, and knows no other names.
func nipServer(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	go func() { // ends when the resolver closes the connection
		defer server.Close()
		for {
			length := make([]byte, 2)
			if _, err := server.Read(length); err != nil {
				return
			}
			question := make([]byte, int(length[0])<<8|int(length[1]))
			if _, err := server.Read(question); err != nil {
				return
			}
			answer := nipAnswer(question)
			if _, err := server.Write(append([]byte{byte(len(answer) >> 8), byte(len(answer))}, answer...)); err != nil {
				return
			}
		}
	}()
	return client, nil
}

func nipAnswer(question []byte) []byte {
	var labels []string
	at := 12
	for question[at] != 0 {
		n := int(question[at])
		labels = append(labels, string(question[at+1:at+1+n]))
		at += 1 + n
	}
	end := at + 5 // type and class
	answer := append([]byte{question[0], question[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, question[12:end]...)
	if len(labels) < 5 || labels[4] != "nip" {
		answer[3] |= 3 // no such name
		return answer
	}
	if question[at+2] == 1 { // A
		answer[7] = 1
		answer = append(answer, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4)
		answer = append(answer, net.ParseIP(strings.Join(labels[:4], ".")).To4()...)
	}
	return answer
}
