package audit

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"strings"

	"github.com/secretbroker/secretbroker/internal/keyfile"
)

// Every line that a Log writes ends with
//
//	,"seq":N,"chain":"C"}
//
// where N counts the records from 1 and C is, in hexadecimal, SHA-256 of the
// chain value before (32 bytes; zeros before the first record) followed by the
// line's own bytes up to and without `,"chain":`. With a Key it is HMAC-SHA256
// (RFC 2104) of the same. This is the linear linking of Haber and Stornetta
// (How to Time-Stamp a Digital Document, 1991), as in Schneier and Kelsey's
// audit logs (1998) but without their evolving keys; docs/audit.md says why. A
// value pins every byte of every record before it.
const (
	seqField   = `,"seq":`
	chainField = `,"chain":"`
	lineEnd    = `"}`
	// maxSeal is the longest such ending of a line.
	maxSeal = len(seqField) + 20 + len(chainField) + 2*sha256.Size + len(lineEnd)
)

// The algorithms of a chain, as markers name them.
const (
	algorithmPlain = "sha256"
	algorithmKeyed = "hmac-sha256"
)

// chainValue is what a record and all before it hash to.
type chainValue [sha256.Size]byte

// Head names a record, and with it everything recorded before: whoever keeps
// one elsewhere can later tell whether anything up to it was changed. The zero
// Head is that of an empty log.
type Head struct {
	Seq   uint64
	Chain [sha256.Size]byte
}

// String returns h as ParseHead takes it, "SEQ:CHAIN".
func (h Head) String() string {
	return strconv.FormatUint(h.Seq, 10) + ":" + hex.EncodeToString(h.Chain[:])
}

// ParseHead parses what Head.String returns.
func ParseHead(s string) (Head, error) {
	seq, chain, _ := strings.Cut(s, ":")
	n, err := strconv.ParseUint(seq, 10, 64)
	h := Head{Seq: n}
	if err != nil || n == 0 || !decodeChain(h.Chain[:], []byte(chain)) {
		return Head{}, errors.New("expected SEQ:CHAIN, a record's number and the 64 hexadecimal digits of its chain")
	}
	return h, nil
}

// decodeChain decodes the one spelling that a Log writes: 64 lower-case digits.
func decodeChain(dst, src []byte) bool {
	for _, c := range src {
		if 'A' <= c && c <= 'F' {
			return false
		}
	}
	if len(src) != 2*sha256.Size {
		return false
	}
	_, err := hex.Decode(dst, src)
	return err == nil
}

// Key makes the chain one that cannot be computed without it. It never shows
// its bytes.
type Key struct {
	mac func() hash.Hash
	id  string
}

// The length of a key, in bytes.
const (
	minKey = 32
	maxKey = 4096
)

// NewKey returns the Key made of secret, 32 to 4096 bytes.
func NewKey(secret []byte) (*Key, error) {
	if len(secret) < minKey || len(secret) > maxKey {
		return nil, fmt.Errorf("an audit key has %d to %d bytes; make one with: openssl rand -hex 32", minKey, maxKey)
	}
	secret = bytes.Clone(secret)
	k := &Key{mac: func() hash.Hash { return hmac.New(sha256.New, secret) }}
	h := k.mac()
	h.Write([]byte("secretbroker audit key id"))
	k.id = hex.EncodeToString(h.Sum(nil)[:8])
	return k, nil
}

// ReadKey reads a Key from a file that others may not read; line breaks at its end do
// not count.
func ReadKey(path string) (*Key, error) {
	data, err := keyfile.Read(path, maxKey+2)
	if err != nil {
		return nil, fmt.Errorf("read the audit key: %w", err)
	}
	defer clear(data)
	k, err := NewKey(bytes.TrimRight(data, "\r\n"))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}

// ID tells keys apart; it gives nothing of the key away.
func (k *Key) ID() string { return k.id }

// linker computes chain values. It is not safe for concurrent use.
type linker struct {
	h     hash.Hash
	keyID string // empty without a key
	// before and sum are link's; there they would be allocated for every record.
	before chainValue
	sum    []byte
}

func newLinker(k *Key) *linker {
	if k == nil {
		return &linker{h: sha256.New()}
	}
	return &linker{h: k.mac(), keyID: k.id}
}

func (k *linker) algorithm() string {
	if k.keyID == "" {
		return algorithmPlain
	}
	return algorithmKeyed
}

// link returns the chain value of a record: body is its line up to chainField.
func (k *linker) link(before chainValue, body []byte) (v chainValue) {
	k.h.Reset()
	k.before = before
	k.h.Write(k.before[:])
	k.h.Write(body)
	k.sum = k.h.Sum(k.sum[:0])
	copy(v[:], k.sum)
	return v
}

// seal appends an object's line as the record after head, with its newline, and
// makes it the head. line is JSON text ending in "}".
func (k *linker) seal(out, line []byte, head *Head) []byte {
	start := len(out)
	out = append(out, line[:len(line)-1]...)
	out = append(out, seqField...)
	out = strconv.AppendUint(out, head.Seq+1, 10)
	*head = Head{head.Seq + 1, k.link(head.Chain, out[start:])}
	out = append(out, chainField...)
	out = hex.AppendEncode(out, head.Chain[:])
	out = append(out, lineEnd...)
	return append(out, '\n')
}

// unseal splits a line, without its newline, into what its chain value is
// computed over and what it says of itself. It reports false for what no Log
// writes. It needs the line's last maxSeal bytes only.
func unseal(line []byte) (body []byte, head Head, ok bool) {
	const tail = len(chainField) + 2*sha256.Size + len(lineEnd)
	if len(line) < tail || !bytes.HasSuffix(line, []byte(lineEnd)) {
		return nil, Head{}, false
	}
	body, rest := line[:len(line)-tail], line[len(line)-tail:]
	// Text in an event cannot look like this: its quotes are escaped.
	if !bytes.HasPrefix(rest, []byte(chainField)) || !decodeChain(head.Chain[:], rest[len(chainField):len(rest)-len(lineEnd)]) {
		return nil, Head{}, false
	}
	i := bytes.LastIndex(body[max(0, len(body)-len(seqField)-20):], []byte(seqField))
	if i < 0 {
		return nil, Head{}, false
	}
	digits := string(body[max(0, len(body)-len(seqField)-20)+i+len(seqField):])
	seq, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || seq == 0 || digits != strconv.FormatUint(seq, 10) {
		return nil, Head{}, false
	}
	head.Seq = seq
	return body, head, true
}
