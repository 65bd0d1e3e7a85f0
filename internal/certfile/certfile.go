// Package certfile reads files of certificates and revocation lists, strictly: a
// file that is still being written, or that an editor has damaged, is an error
// and not a shorter list of authorities.
//
// It knows PEM and X.509 and nothing of who trusts whom. Its errors quote
// nothing of a file.
package certfile

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

var begin = []byte("-----BEGIN")

// Parse returns the certificates of a PEM file that holds one or more of them
// and nothing else.
func Parse(data []byte) ([]*x509.Certificate, error) {
	blocks := bytes.Count(data, begin)
	if blocks == 0 {
		return nil, errors.New("there is no PEM certificate in it")
	}
	certs := make([]*x509.Certificate, 0, blocks)
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, errors.New("it holds something else than certificates")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d in it cannot be parsed", len(certs)+1)
		}
		certs = append(certs, cert)
		data = rest
	}
	if len(certs) != blocks { // pem.Decode skips what it cannot read
		return nil, errors.New("a certificate in it is cut off or damaged")
	}
	return certs, nil
}

// Complete reports whether every PEM block that begins in data can be read to
// its end. A certificate's own file may hold its key as well.
func Complete(data []byte) bool {
	begun := bytes.Count(data, begin)
	for ; ; begun-- {
		block, rest := pem.Decode(data)
		if block == nil {
			return begun == 0
		}
		data = rest
	}
}

// RevocationLists returns the CRLs of a file: one in DER, or one or more in PEM
// and nothing else. Their signatures are not looked at.
func RevocationLists(data []byte) ([]*x509.RevocationList, error) {
	blocks := bytes.Count(data, begin)
	if blocks == 0 {
		crl, err := x509.ParseRevocationList(data)
		if err != nil || len(crl.Raw) != len(data) {
			return nil, errors.New("it is no CRL, neither PEM nor DER")
		}
		return []*x509.RevocationList{crl}, nil
	}
	crls := make([]*x509.RevocationList, 0, blocks)
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		if block.Type != "X509 CRL" {
			return nil, errors.New("it holds something else than CRLs")
		}
		crl, err := x509.ParseRevocationList(block.Bytes)
		if err != nil || len(crl.Raw) != len(block.Bytes) {
			return nil, fmt.Errorf("CRL %d in it cannot be parsed", len(crls)+1)
		}
		crls = append(crls, crl)
		data = rest
	}
	if len(crls) != blocks { // pem.Decode skips what it cannot read
		return nil, errors.New("a CRL in it is cut off or damaged")
	}
	return crls, nil
}

// Pool returns the certificates of a file as a set of roots.
func Pool(data []byte) (*x509.CertPool, error) {
	certs, err := Parse(data)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for _, cert := range certs {
		pool.AddCert(cert)
	}
	return pool, nil
}
