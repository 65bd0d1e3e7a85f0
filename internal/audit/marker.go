package audit

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

// Marker is a record about the log itself. Its first JSON name is "marker",
// which no Event has; like an Event's the names are a promise.
type Marker struct {
	// Marker says why it was written: opened, rotated, torn or resumed.
	Marker string    `json:"marker"`
	Time   time.Time `json:"time"`
	// Algorithm and KeyID say how the chain is computed from this record on.
	Algorithm string `json:"algorithm"`
	KeyID     string `json:"key_id,omitempty"`
	// PreviousSeq and PreviousChain are the head that this record follows, which
	// may be in another file. They are left out if there is none.
	PreviousSeq   uint64 `json:"previous_seq,omitempty"`
	PreviousChain string `json:"previous_chain,omitempty"`
	// UnchainedBytes is how many bytes there are between the previous record and
	// this one, its newline included, that are no record: a line that was cut
	// off, or one that is older than the chain. UnchainedSHA256 is their hash in
	// hexadecimal, without the last newline.
	UnchainedBytes  int64  `json:"unchained_bytes,omitempty"`
	UnchainedSHA256 string `json:"unchained_sha256,omitempty"`
}

// Why a marker was written.
const (
	// markOpened: a broker has started.
	markOpened = "opened"
	// markRotated: this is a new file of the same broker.
	markRotated = "rotated"
	// markTorn: a line before was cut off by an error.
	markTorn = "torn"
	// markResumed: the log could not be written for a while, and now it can.
	markResumed = "resumed"
)

const markerStart = `{"marker":"`

// parseMarker reports false for what is not a marker.
func parseMarker(line []byte) (m Marker, ok bool) {
	if !bytes.HasPrefix(line, []byte(markerStart)) {
		return Marker{}, false
	}
	return m, json.Unmarshal(line, &m) == nil
}

// encode returns the marker's JSON text.
func (m *Marker) encode() []byte {
	text, err := json.Marshal(m)
	if err != nil {
		panic(err) // it consists of words, numbers and a time of this century
	}
	return text
}

// previous returns the head that the marker says it follows.
func (m *Marker) previous() (h Head, ok bool) {
	h.Seq = m.PreviousSeq
	return h, m.PreviousSeq > 0 && decodeChain(h.Chain[:], []byte(m.PreviousChain))
}

// newMarker returns the marker that comes after head and the bytes in between.
func newMarker(why string, k *linker, head Head, between *loose) Marker {
	m := Marker{Marker: why, Time: time.Now().UTC(), Algorithm: k.algorithm(), KeyID: k.keyID}
	if head.Seq > 0 {
		m.PreviousSeq, m.PreviousChain = head.Seq, hex.EncodeToString(head.Chain[:])
	}
	if between.any {
		m.UnchainedBytes, m.UnchainedSHA256 = between.sum()
	}
	return m
}

// loose adds up the bytes since the last record that are no record. The zero
// loose is empty.
type loose struct {
	any bool
	n   int64
	h   hash.Hash
	// newline says that they end with one, which is not in n and h yet.
	newline bool
}

func (l *loose) add(p []byte) {
	if len(p) == 0 {
		return
	}
	if l.h == nil {
		l.h = sha256.New()
	}
	l.any = true
	if l.newline {
		l.h.Write([]byte{'\n'})
		l.n++
	}
	l.newline = p[len(p)-1] == '\n'
	if l.newline {
		p = p[:len(p)-1]
	}
	l.h.Write(p)
	l.n += int64(len(p))
}

// endLine ends the line that add has left open. In the file the newline may
// come later, or, when the file ends there, never.
func (l *loose) endLine() {
	if l.any && !l.newline {
		l.newline = true
	}
}

// sum returns the values for a marker.
func (l *loose) sum() (n int64, sum string) {
	return l.n + 1, hex.EncodeToString(l.h.Sum(nil))
}

func (l *loose) reset() {
	if l.any {
		*l = loose{}
	}
}

// readTail finds the last record of a file and what comes after it. It reads
// backwards, so that the size of the file does not matter. open says that the
// file does not end with a newline.
func readTail(r io.ReaderAt, size int64) (head Head, after loose, open bool, err error) {
	head, end, err := lastRecord(r, size)
	if err != nil {
		return Head{}, loose{}, false, fmt.Errorf("read the audit log's last record: %w", err)
	}
	var rest io.Reader = io.NewSectionReader(r, end, size-end)
	buf := make([]byte, 64<<10)
	for {
		n, err := rest.Read(buf)
		after.add(buf[:n])
		if err == io.EOF {
			break
		}
		if err != nil {
			return Head{}, loose{}, false, fmt.Errorf("read the end of the audit log: %w", err)
		}
	}
	// A record may lack its newline and nothing else.
	last := make([]byte, 1)
	if size > 0 {
		if _, err := r.ReadAt(last, size-1); err != nil && err != io.EOF {
			return Head{}, loose{}, false, fmt.Errorf("read the end of the audit log: %w", err)
		}
	}
	return head, after, size > 0 && last[0] != '\n', nil
}

// lastRecord returns the last record's head and where the next line begins. If
// there is no record, that is the beginning of the file.
func lastRecord(r io.ReaderAt, size int64) (head Head, end int64, err error) {
	const step = 64 << 10
	buf := make([]byte, step+maxSeal)
	for high := size; high > 0; high -= step {
		low := max(0, high-step-int64(maxSeal))
		window := buf[:high-low]
		if n, err := r.ReadAt(window, low); n < len(window) {
			return Head{}, 0, err
		}
		i := len(window)
		if high < size { // only there the end of the window is one of a line
			i = bytes.LastIndexByte(window, '\n')
		}
		for ; i > 0; i = bytes.LastIndexByte(window[:i], '\n') {
			if _, head, ok := unseal(window[max(0, i-maxSeal):i]); ok {
				return head, min(low+int64(i)+1, size), nil
			}
		}
	}
	return Head{}, 0, nil
}
