package certfile

import (
	"encoding/pem"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/trust/trusttest"
)

func TestParse(t *testing.T) {
	a, b := string(trusttest.NewCA(t, "A").PEM()), string(trusttest.NewCA(t, "B").PEM())
	damaged := strings.Replace(b, "\n", "\n!", 2)
	tests := []struct {
		name, data string
		want       int
	}{
		{"one", a, 1},
		{"two", a + b, 2},
		{"two with notes", "# the first\n" + a + "\n# the second\n" + b + "\n", 2},
		{"none", "", 0},
		{"text", "hunter2", 0},
		{"cut off at the end", a + b[:len(b)/2], 0},
		{"cut off alone", a[:len(a)/2], 0},
		{"damaged in between", a + damaged + b, 0},
		{"not a certificate", a + string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})), 0},
		{"a key", a + string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")})), 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			certs, err := Parse([]byte(tt.data))
			if len(certs) != tt.want || (err == nil) != (tt.want > 0) {
				t.Errorf("%d certificates, %v", len(certs), err)
			}
			pool, err := Pool([]byte(tt.data))
			if (pool != nil) != (tt.want > 0) || (err == nil) != (tt.want > 0) {
				t.Errorf("pool %v, %v", pool, err)
			}
		})
	}
}

func TestComplete(t *testing.T) {
	a := string(trusttest.NewCA(t, "CA").PEM())
	key := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}))
	for data, want := range map[string]bool{"": true, a: true, a + key: true, a[:len(a)-30]: false, a + key[:20]: false, a[:50] + "\n" + a: false} {
		if got := Complete([]byte(data)); got != want {
			t.Errorf("%q: %v, want %v", data, got, want)
		}
	}
}

func TestRevocationLists(t *testing.T) {
	der := trusttest.NewCA(t, "CA").CRL(nil)
	a := string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
	for _, tt := range []struct {
		name, data string
		want       int
	}{
		{"DER", string(der), 1},
		{"DER and more", string(der) + "x", 0},
		{"half of DER", string(der[:len(der)/2]), 0},
		{"one", a, 1},
		{"two with notes", "# the first\n" + a + "\n# the second\n" + a, 2},
		{"none", "", 0},
		{"text", "hunter2", 0},
		{"cut off at the end", a + a[:len(a)/2], 0},
		{"damaged in between", a + strings.Replace(a, "\n", "\n!", 2) + a, 0},
		{"not a CRL", string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: []byte("x")})), 0},
		{"a certificate beside", a + string(trusttest.NewCA(t, "CA").PEM()), 0},
	} {
		crls, err := RevocationLists([]byte(tt.data))
		if len(crls) != tt.want || (err == nil) != (tt.want > 0) {
			t.Errorf("%s: %d CRLs, %v", tt.name, len(crls), err)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error quotes the file: %v", tt.name, err)
		}
	}
}

func TestEncryptedKey(t *testing.T) {
	traditional := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: []byte{1},
		Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-256-CBC,00"}}))
	certificate := string(trusttest.NewCA(t, "A").PEM())
	for text, want := range map[string]bool{
		string(trusttest.PEM("ENCRYPTED PRIVATE KEY", []byte{1})): true,
		traditional:               true,
		certificate + traditional: true,
		certificate + string(trusttest.PEM("PRIVATE KEY", []byte{1})): false,
		string(trusttest.PEM("EC PRIVATE KEY", []byte{1})):            false,
		"": false,
	} {
		if got := EncryptedKey([]byte(text)); got != want {
			t.Errorf("%v for\n%s", got, text)
		}
	}
}
