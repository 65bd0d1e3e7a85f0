// Package certfile parses files of certificates and revocation lists, strictly. A file
// that is still being written, or that an editor has damaged, is an error.
// encoding/pem would skip the damaged block and so return fewer authorities.
//
// The package knows PEM and X.509, but not which certificates are trusted. Its errors
// do not quote the file.
package certfile

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
)

var begin = []byte("-----BEGIN")

// Parse returns the certificates of a PEM file, which must contain one or more
// certificates and no other blocks.
func Parse(data []byte) ([]*x509.Certificate, error) {
	blocks := bytes.Count(data, begin)
	if blocks == 0 {
		return nil, errors.New("it contains no PEM certificate")
	}
	certs := make([]*x509.Certificate, 0, blocks)
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, errors.New("it must contain only PEM certificates")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("its certificate %d cannot be parsed", len(certs)+1)
		}
		certs = append(certs, cert)
		data = rest
	}
	if len(certs) != blocks { // pem.Decode skips blocks that it cannot decode
		return nil, errors.New("it contains a truncated or damaged certificate")
	}
	return certs, nil
}

// First returns the first certificate of a PEM file, which may contain other blocks, or nil.
func First(data []byte) *x509.Certificate {
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			return nil
		}
		if block.Type == "CERTIFICATE" {
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil
			}
			return cert
		}
		data = rest
	}
}

// Complete reports whether every PEM block that begins in data can be decoded. The
// types of the blocks do not matter: a certificate's file may also contain its key.
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

// EncryptedKey reports whether data contains a private key that is encrypted, in PKCS #8 or,
// with a header of RFC 1421, in an older format. Go reads neither.
func EncryptedKey(data []byte) bool {
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			return false
		}
		encrypted := block.Type == "ENCRYPTED PRIVATE KEY" ||
			strings.HasSuffix(block.Type, "PRIVATE KEY") && block.Headers["Proc-Type"] == "4,ENCRYPTED"
		clear(block.Bytes)
		if encrypted {
			return true
		}
		data = rest
	}
}

// RevocationLists returns the CRLs of a file, which must contain one CRL in DER, or one
// or more in PEM and no other blocks. It does not check their signatures.
func RevocationLists(data []byte) ([]*x509.RevocationList, error) {
	blocks := bytes.Count(data, begin)
	if blocks == 0 {
		crl, err := x509.ParseRevocationList(data)
		if err != nil || len(crl.Raw) != len(data) {
			return nil, errors.New("it is not a CRL in PEM or DER")
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
			return nil, errors.New("it must contain only CRLs")
		}
		crl, err := x509.ParseRevocationList(block.Bytes)
		if err != nil || len(crl.Raw) != len(block.Bytes) {
			return nil, fmt.Errorf("its CRL %d cannot be parsed", len(crls)+1)
		}
		crls = append(crls, crl)
		data = rest
	}
	if len(crls) != blocks { // pem.Decode skips blocks that it cannot decode
		return nil, errors.New("it contains a truncated or damaged CRL")
	}
	return crls, nil
}

// Pool returns a pool of the certificates of a file. The file must be valid for Parse.
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

// Permits reports whether the extended key usage of a certificate permits the use. A
// certificate without the extension permits all uses (RFC 5280 section 4.2.1.12).
func Permits(cert *x509.Certificate, use x509.ExtKeyUsage) bool {
	return len(cert.ExtKeyUsage)+len(cert.UnknownExtKeyUsage) == 0 ||
		slices.Contains(cert.ExtKeyUsage, use) || slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageAny)
}
