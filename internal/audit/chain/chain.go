// Package chain owns the format that makes an audit log tamper-evident: the hash chain
// over its records, the key that protects it, and the segment headers that describe it.
// Package audit appends to such logs and package logread verifies them.
//
// # Why a chain
//
// An audit log is read long after it was written, by people who do not trust the
// machine that wrote it. A file alone cannot show whether a line of it was changed,
// removed or inserted since. So each record carries a hash of itself and of
// the hash before it, and thereby of every byte of every record before it. A change
// anywhere makes all later hashes wrong, and a hash that was copied to another machine
// earlier (a Head) fixes everything up to its record for good.
//
// # The format of a record
//
// A record is one line of JSON that ends with
//
//	,"seq":N,"chain":"C"}
//
// or, on standard output,
//
//	,"run":"R","seq":N,"chain":"C"}
//
// where R identifies the process that wrote it: what collectors make of standard output has
// the chains of many processes, mixed with other lines.
//
// In both,
//
// N counts the records from 1 and C is, in hexadecimal, SHA-256 of the
// chain value before (32 bytes; zeros before the first record) followed by the
// line's own bytes up to and without `,"chain":`. With a Key it is HMAC-SHA256
// (RFC 2104) of the same. This is the linear linking of Haber and Stornetta
// (How to Time-Stamp a Digital Document, 1991), as in Schneier and Kelsey's
// audit logs (1998) but without their evolving keys; docs/design.md says why. Because
// the hash covers bytes and not values, verification parses no JSON.
//
// # Segments
//
// A chain outlives the files and the processes that write it. A segment is a
// part of it that one process wrote to one file without interruption, and begins with a
// SegmentHeader. This record names the algorithm and the key, the head that it follows,
// which may be in another file, and the bytes between the two that are not a record, such
// as a line that a crash cut off.
//
// Without a Key, anyone who can write the file can compute a whole new chain. With a Key,
// only those who have it can. A Head that was stored elsewhere detects even their changes.
package chain

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"strings"

	"github.com/secretbroker/secretbroker/internal/keyfile"
)

// The parts of a record's ending.
const (
	runField   = `,"run":"`
	seqField   = `,"seq":`
	chainField = `,"chain":"`
	lineEnd    = `"}`
	// MaxEnding is the length of the longest ending of a record, in bytes.
	MaxEnding = len(runField) + runDigits + 1 + len(seqField) + 20 + len(chainField) + 2*sha256.Size + len(lineEnd)
)

// MaxLine is the length of the longest line that can be a record, in bytes. It is well
// above what the broker's limits allow.
const MaxLine = 1 << 20

// The algorithms of a chain, as segment headers name them.
const (
	algorithmPlain = "sha256"
	algorithmKeyed = "hmac-sha256"
)

// Value is the hash over a record and all records before it.
type Value = [sha256.Size]byte

// Head identifies a record, and with it every record before: a Head that was stored
// elsewhere later shows whether any of them was changed. The zero Head is that of an empty
// log.
type Head struct {
	Seq   uint64
	Chain Value
}

// String returns h in the form that ParseHead accepts, "SEQ:CHAIN".
func (h Head) String() string {
	return strconv.FormatUint(h.Seq, 10) + ":" + hex.EncodeToString(h.Chain[:])
}

// ParseHead parses what Head.String returns.
func ParseHead(s string) (Head, error) {
	seq, chain, _ := strings.Cut(s, ":")
	n, err := strconv.ParseUint(seq, 10, 64)
	h := Head{Seq: n}
	if err != nil || n == 0 || !decodeValue(h.Chain[:], []byte(chain)) {
		return Head{}, errors.New("expected SEQ:CHAIN, a record's number and the 64 hexadecimal digits of its chain")
	}
	return h, nil
}

// decodeValue decodes the only form that a Linker writes: 64 lower-case digits.
func decodeValue(dst, src []byte) bool {
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

// Key is the secret that is needed to compute a chain. No method returns or prints its
// bytes. It is safe for concurrent use.
type Key struct {
	mac func() hash.Hash
	id  string
}

// The length of a key, in bytes.
const (
	minKey = 32
	maxKey = 4096
)

// NewKey returns the Key with the given secret, 32 to 4096 bytes. It copies the secret.
func NewKey(secret []byte) (*Key, error) {
	if len(secret) < minKey || len(secret) > maxKey {
		return nil, fmt.Errorf("an audit key must have %d to %d bytes; make one with: openssl rand -hex 32", minKey, maxKey)
	}
	secret = bytes.Clone(secret)
	k := &Key{mac: func() hash.Hash { return hmac.New(sha256.New, secret) }}
	h := k.mac()
	h.Write([]byte("secretbroker audit key id"))
	k.id = hex.EncodeToString(h.Sum(nil)[:8])
	return k, nil
}

// ReadKey reads a Key from a file. It refuses a file that others than its owner can read
// or write, and it ignores line breaks at the end.
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

// ID returns an identifier of the key, which reveals nothing about its bytes.
func (k *Key) ID() string { return k.id }

// Linker computes chain values and appends records. It is not safe for concurrent use.
type Linker struct {
	h     hash.Hash
	keyID string // empty without a key
	run   string // the member run of records, with its name; empty for none
	// before and sum are scratch space of Link, so that it does not allocate.
	before Value
	sum    []byte
}

// NewLinker returns a Linker for chains with the key, or without one if k is nil.
func NewLinker(k *Key) *Linker {
	if k == nil {
		return &Linker{h: sha256.New()}
	}
	return &Linker{h: k.mac(), keyID: k.id}
}

// Algorithm returns the name of the algorithm, as SegmentHeader.Algorithm has it.
func (k *Linker) Algorithm() string {
	if k.keyID == "" {
		return algorithmPlain
	}
	return algorithmKeyed
}

// KeyID returns the ID of the key, "" without one.
func (k *Linker) KeyID() string { return k.keyID }

// runDigits is the number of hexadecimal digits of a run.
const runDigits = 16

// SetRun makes Seal add the member run, with a random value, to all records.
func (k *Linker) SetRun() {
	id := make([]byte, runDigits/2)
	_, _ = rand.Read(id) // never fails
	k.run = runField + hex.EncodeToString(id) + `"`
}

// Run returns the member run of a record, whose body Unseal has returned; "" if it has none.
func Run(body []byte) string {
	body = body[:max(0, bytes.LastIndex(body, []byte(seqField)))]
	const length = len(runField) + runDigits + 1
	if len(body) < length || body[len(body)-1] != '"' {
		return ""
	}
	// Text in an event cannot look like this: its quotes are escaped. Objects in an event
	// end with a bracket.
	body = body[len(body)-length : len(body)-1]
	id, ok := bytes.CutPrefix(body, []byte(runField))
	if !ok || bytes.ContainsFunc(id, func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'f') }) {
		return ""
	}
	return string(id)
}

// Link returns the chain value of the record after the one with the value before. body
// is the record's line up to and without `,"chain":`.
func (k *Linker) Link(before Value, body []byte) (v Value) {
	k.h.Reset()
	k.before = before
	k.h.Write(k.before[:])
	k.h.Write(body)
	k.sum = k.h.Sum(k.sum[:0])
	copy(v[:], k.sum)
	return v
}

// Seal appends line to out as the record after head, with a newline, and updates head.
// line is a JSON object without a newline.
func (k *Linker) Seal(out, line []byte, head *Head) []byte {
	start := len(out)
	out = append(out, line[:len(line)-1]...)
	out = append(out, k.run...)
	out = append(out, seqField...)
	out = strconv.AppendUint(out, head.Seq+1, 10)
	*head = Head{head.Seq + 1, k.Link(head.Chain, out[start:])}
	out = append(out, chainField...)
	out = hex.AppendEncode(out, head.Chain[:])
	out = append(out, lineEnd...)
	return append(out, '\n')
}

// Unseal splits a line, without its newline, into the body that its chain value covers and
// the head that the line claims; it does not check the value. It reports false for a line
// that is not a record. It reads only the last MaxEnding bytes of the line.
func Unseal(line []byte) (body []byte, head Head, ok bool) {
	const tail = len(chainField) + 2*sha256.Size + len(lineEnd)
	if len(line) < tail || !bytes.HasSuffix(line, []byte(lineEnd)) {
		return nil, Head{}, false
	}
	body, rest := line[:len(line)-tail], line[len(line)-tail:]
	// Text in an event cannot look like this: its quotes are escaped.
	if !bytes.HasPrefix(rest, []byte(chainField)) || !decodeValue(head.Chain[:], rest[len(chainField):len(rest)-len(lineEnd)]) {
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
