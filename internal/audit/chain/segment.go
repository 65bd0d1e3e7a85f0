package chain

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"time"
)

// Version is the version of the format of records, the member v of each: a number. It changes
// only if an existing member changes its meaning; new members do not change it.
const Version = "1"

// TypeSegment is the type of a SegmentHeader.
const TypeSegment = "segment"

// SegmentHeader is the record at the beginning of a segment. The names are a stable
// interface.
type SegmentHeader struct {
	// V and Type are Version and TypeSegment.
	V    json.Number `json:"v"`
	Type string      `json:"type"`
	Time time.Time   `json:"time"`
	// Cause says why the segment begins: opened, rotated, torn or resumed.
	Cause string `json:"cause"`
	// Algorithm and KeyID say how the chain is computed from this record on.
	Algorithm string `json:"algorithm"`
	KeyID     string `json:"key_id,omitempty"`
	// PreviousSeq and PreviousChain are the head that this record follows, which
	// may be in another file. They are omitted if there is none.
	PreviousSeq   uint64 `json:"previous_seq,omitempty"`
	PreviousChain string `json:"previous_chain,omitempty"`
	// UnchainedBytes is the number of bytes between the previous record and this one
	// that are not a record, including their last newline: a line that was cut off, or
	// lines from before the log had a chain. UnchainedSHA256 is their hash in
	// hexadecimal, without the last newline.
	UnchainedBytes  int64  `json:"unchained_bytes,omitempty"`
	UnchainedSHA256 string `json:"unchained_sha256,omitempty"`
}

// The causes of a segment.
const (
	// Opened: a broker opened the log.
	Opened = "opened"
	// Rotated: the broker began a new file.
	Rotated = "rotated"
	// Torn: an error cut off the previous line.
	Torn = "torn"
	// Resumed: the log can be written again after an error.
	Resumed = "resumed"
)

const headerStart = `{"v":` + Version + `,"type":"` + TypeSegment + `",`

// IsSegmentHeader reports whether a record is a SegmentHeader.
func IsSegmentHeader(line []byte) bool { return bytes.HasPrefix(line, []byte(headerStart)) }

// ParseSegmentHeader parses a record. It reports false if that is not a SegmentHeader.
func ParseSegmentHeader(line []byte) (h SegmentHeader, ok bool) {
	if !IsSegmentHeader(line) {
		return SegmentHeader{}, false
	}
	return h, json.Unmarshal(line, &h) == nil
}

// NewSegmentHeader returns the header of a segment that k will chain. The segment follows
// head and the unchained bytes after it.
func NewSegmentHeader(cause string, k *Linker, head Head, between *Unchained) SegmentHeader {
	h := SegmentHeader{V: Version, Type: TypeSegment, Time: time.Now().UTC(), Cause: cause, Algorithm: k.Algorithm(), KeyID: k.keyID}
	if head.Seq > 0 {
		h.PreviousSeq, h.PreviousChain = head.Seq, hex.EncodeToString(head.Chain[:])
	}
	if between.any {
		h.UnchainedBytes, h.UnchainedSHA256 = between.sum()
	}
	return h
}

// Encode returns the header's JSON text.
func (h *SegmentHeader) Encode() []byte {
	text, err := json.Marshal(h)
	if err != nil {
		panic(err) // cannot happen: strings, numbers and a valid time
	}
	return text
}

// Previous returns the head that the header follows, according to the header itself.
func (h *SegmentHeader) Previous() (head Head, ok bool) {
	head.Seq = h.PreviousSeq
	return head, h.PreviousSeq > 0 && decodeValue(head.Chain[:], []byte(h.PreviousChain))
}

// Declares reports whether the header declares exactly the given unchained bytes.
func (h *SegmentHeader) Declares(between *Unchained) bool {
	if !between.any {
		return h.UnchainedBytes == 0
	}
	n, sum := between.sum()
	return h.UnchainedBytes == n && h.UnchainedSHA256 == sum
}

// Unchained counts and hashes the bytes since the last record that are not a record. The
// zero Unchained is empty. It is not safe for concurrent use.
type Unchained struct {
	any bool
	n   int64
	h   hash.Hash
	// newline: the bytes end with a newline, which is not in n and h yet.
	newline bool
}

// Empty reports whether there are no such bytes.
func (u *Unchained) Empty() bool { return !u.any }

// Add adds bytes.
func (u *Unchained) Add(p []byte) {
	if len(p) == 0 {
		return
	}
	if u.h == nil {
		u.h = sha256.New()
	}
	u.any = true
	if u.newline {
		u.h.Write([]byte{'\n'})
		u.n++
	}
	u.newline = p[len(p)-1] == '\n'
	if u.newline {
		p = p[:len(p)-1]
	}
	u.h.Write(p)
	u.n += int64(len(p))
}

// EndLine ends the line that Add has left open. The file may get the newline later, or
// never if another file follows.
func (u *Unchained) EndLine() {
	if u.any && !u.newline {
		u.newline = true
	}
}

// sum returns the values for a SegmentHeader.
func (u *Unchained) sum() (n int64, sum string) {
	return u.n + 1, hex.EncodeToString(u.h.Sum(nil))
}

// Reset makes u empty.
func (u *Unchained) Reset() {
	if u.any {
		*u = Unchained{}
	}
}

// ReadTail returns the head of the last record of a file and the unchained bytes after it.
// It reads backwards, so the time does not depend on the size of the file. open reports
// that the file does not end with a newline.
func ReadTail(r io.ReaderAt, size int64) (head Head, after Unchained, open bool, err error) {
	head, end, err := lastRecord(r, size)
	if err != nil {
		return Head{}, Unchained{}, false, fmt.Errorf("read the audit log's last record: %w", err)
	}
	var rest io.Reader = io.NewSectionReader(r, end, size-end)
	buf := make([]byte, 64<<10)
	for {
		n, err := rest.Read(buf)
		after.Add(buf[:n])
		if err == io.EOF {
			break
		}
		if err != nil {
			return Head{}, Unchained{}, false, fmt.Errorf("read the end of the audit log: %w", err)
		}
	}
	// The last record may be complete except for its newline.
	last := make([]byte, 1)
	if size > 0 {
		if _, err := r.ReadAt(last, size-1); err != nil && err != io.EOF {
			return Head{}, Unchained{}, false, fmt.Errorf("read the end of the audit log: %w", err)
		}
	}
	return head, after, size > 0 && last[0] != '\n', nil
}

// lastRecord returns the head of the last record and the offset of the line after it, or 0
// if there is no record.
func lastRecord(r io.ReaderAt, size int64) (head Head, end int64, err error) {
	const step = 64 << 10
	buf := make([]byte, step+MaxEnding)
	for high := size; high > 0; high -= step {
		low := max(0, high-step-int64(MaxEnding))
		window := buf[:high-low]
		if n, err := r.ReadAt(window, low); n < len(window) {
			return Head{}, 0, err
		}
		i := len(window)
		if high < size { // only the last window ends where a line ends
			i = bytes.LastIndexByte(window, '\n')
		}
		for ; i > 0; i = bytes.LastIndexByte(window[:i], '\n') {
			if _, head, ok := Unseal(window[max(0, i-MaxEnding):i]); ok {
				return head, min(low+int64(i)+1, size), nil
			}
		}
	}
	return Head{}, 0, nil
}
