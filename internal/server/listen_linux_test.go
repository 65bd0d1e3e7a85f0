package server

import (
	"net"
	"testing"
)

// TestSilentConnectionsAreNotAccepted: of two connections, the one that sends data is
// accepted although the silent one connected earlier.
func TestSilentConnectionsAreNotAccepted(t *testing.T) {
	l, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	silent, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	speaks, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer speaks.Close()
	if _, err := speaks.Write([]byte{22}); err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if conn.RemoteAddr().String() != speaks.LocalAddr().String() {
		t.Error("the silent connection was accepted")
	}
}
