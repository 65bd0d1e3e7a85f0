package logread

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/secretbroker/secretbroker/internal/audit/chain"
)

// VerifyConfig has the keys and heads that a log is verified with.
type VerifyConfig struct {
	// Keys are all keys that the log was written with. If there is one, a record without
	// a key is a break, unless it precedes the first record with a key.
	Keys []*chain.Key
	// Heads were stored earlier: the log must contain the record of each of them.
	Heads []chain.Head
}

// BreakKind says what is wrong where a chain breaks. The names are a stable interface.
type BreakKind string

// The kinds of breaks.
const (
	// BreakRecord: a record's chain value does not match its bytes and the record before.
	BreakRecord BreakKind = "record"
	// BreakSequence: the number of a record is not the one after that of the record before.
	BreakSequence BreakKind = "sequence"
	// BreakUnchained: some bytes are not a record, and the next record does not declare
	// them.
	BreakUnchained BreakKind = "unchained"
	// BreakTorn: the last line is incomplete, and no record declares it yet. A file that
	// is being written may end like this.
	BreakTorn BreakKind = "torn"
	// BreakKey: records are not protected by the required key, or by a key that is not in
	// VerifyConfig.Keys.
	BreakKey BreakKind = "key"
	// BreakHead: the log does not contain the record of an expected head.
	BreakHead BreakKind = "head"
)

// Break is the first line that cannot be verified.
type Break struct {
	File string `json:"file"`
	Line int    `json:"line"`
	// Offset is the offset of the line in the decompressed file, in bytes.
	Offset int64     `json:"offset"`
	Kind   BreakKind `json:"kind"`
	Text   string    `json:"text"`
}

// String returns the break as one line of text.
func (b *Break) String() string {
	return fmt.Sprintf("%s:%d: %s: %s (byte %d)", b.File, b.Line, b.Kind, b.Text, b.Offset)
}

// Report is the result of Verify. Everything before Break is intact.
type Report struct {
	// Break is nil if all of the log is intact.
	Break *Break
	// Records is the number of intact records, and First and Last are the first and the
	// last of them; both are zero if there are none.
	Records     int
	First, Last chain.Head
	// Previous is the head that First follows, according to its segment header. It is in
	// an earlier file, which Verify did not get, and zero if First is record 1.
	Previous chain.Head
	// UnchainedBytes is the number of bytes that are not records and that a segment
	// header declares: lines that a crash or a full disk cut off, or lines from before
	// the log had a chain.
	UnchainedBytes int64
}

// Verify follows the chain of a log through the files, in the order in which they were
// written, up to the first break. The memory it needs does not depend on their size. It
// returns an error only if a file cannot be read.
//
// Verify stops at the first break: from there on the chain proves nothing, because an
// attacker who caused the break could have written everything after it.
//
// Without a key, and without a head that was stored elsewhere, a chain detects only
// accidents and careless changes: anyone who can write the file can compute a new chain.
func Verify(ctx context.Context, cfg VerifyConfig, files []string) (*Report, error) {
	if len(files) == 0 {
		return nil, errors.New("no files")
	}
	v := newVerifier(cfg)
	if err := readLines(ctx, files, v.line); err != nil && !errors.Is(err, errBroken) {
		return nil, err
	}
	v.finish()
	return &v.report, nil
}

// errBroken stops reading at the first break.
var errBroken = errors.New("the chain is broken")

// verifier follows a chain, line by line.
type verifier struct {
	report Report
	heads  []chain.Head // expected and not reached yet

	linkers []*chain.Linker // one per key, and one without a key
	linker  *chain.Linker   // of the current segment
	keyed   bool            // a record had a key

	at rawLine // the current line, without its text

	// unchained are the lines since the last record that are not records, and
	// unchainedAt is the first of them. torn: it is the only one and has no newline.
	unchained   chain.Unchained
	unchainedAt rawLine
	torn        bool
}

func newVerifier(cfg VerifyConfig) *verifier {
	v := &verifier{heads: slices.Clone(cfg.Heads), linkers: []*chain.Linker{chain.NewLinker(nil)}}
	for _, k := range cfg.Keys {
		v.linkers = append(v.linkers, chain.NewLinker(k))
	}
	v.linker = v.linkers[0]
	return v
}

// breaks sets the break of the report. It returns errBroken.
func (v *verifier) breaks(at rawLine, kind BreakKind, format string, args ...any) error {
	v.report.Break = &Break{at.file, at.n, at.offset, kind, fmt.Sprintf(format, args...)}
	return errBroken
}

// line verifies the next line of the files.
func (v *verifier) line(l rawLine) error {
	if l.offset == 0 {
		v.unchained.EndLine() // the line that the previous file left open
	}
	v.at = l
	v.at.text = nil
	body, head, ok := chain.Unseal(l.text)
	if l.long || !ok {
		v.addUnchained(l)
		return nil
	}
	return v.record(l.text, body, head)
}

func (v *verifier) addUnchained(l rawLine) {
	if v.unchained.Empty() {
		v.unchainedAt = v.at
	}
	v.torn = !l.ended && l.file == v.unchainedAt.file && l.n == v.unchainedAt.n
	v.unchained.Add(l.text)
	switch {
	case l.ended && len(l.text) == 0:
		v.unchained.Add([]byte{'\n'})
	case l.ended:
		v.unchained.EndLine()
	}
}

// record verifies a record.
func (v *verifier) record(line, body []byte, head chain.Head) error {
	header, ok := chain.ParseSegmentHeader(line)
	if ok {
		if err := v.useLinker(&header); err != nil {
			return err
		}
	}
	follows := v.report.Last
	if previous, ok := header.Previous(); ok && v.report.Records == 0 {
		follows, v.report.Previous = previous, previous
	}
	switch {
	case head.Seq == 1 && follows.Seq > 0 && v.at.offset == 0:
		return v.breaks(v.at, BreakSequence, "a new chain begins here with record 1, but the log before it ends with record %d", follows.Seq)
	case !header.Declares(&v.unchained) && v.unchained.Empty():
		return v.breaks(v.at, BreakUnchained, "the %d bytes that this record declares are missing before it", header.UnchainedBytes)
	case !header.Declares(&v.unchained):
		return v.breaks(v.unchainedAt, BreakUnchained, "this line is not a record, and the next record does not declare it")
	case head.Seq != follows.Seq+1 && v.report.Records == 0:
		return v.breaks(v.at, BreakSequence, "the log begins with record %d: the records before it are missing", head.Seq)
	case head.Seq != follows.Seq+1:
		return v.breaks(v.at, BreakSequence, "found record %d, expected record %d", head.Seq, follows.Seq+1)
	case v.linker.Link(follows.Chain, body) != head.Chain:
		return v.breaks(v.at, BreakRecord, "the chain value of record %d does not match the record and those before it", head.Seq)
	}
	v.report.UnchainedBytes += header.UnchainedBytes
	v.unchained.Reset()
	return v.advance(head)
}

// useLinker selects the linker for the algorithm and key of a segment.
func (v *verifier) useLinker(h *chain.SegmentHeader) error {
	i := slices.IndexFunc(v.linkers, func(k *chain.Linker) bool { return k.KeyID() == h.KeyID && k.Algorithm() == h.Algorithm })
	switch {
	case i < 0:
		return v.breaks(v.at, BreakKey, "the records from here on were written with %s and the key %q, which was not provided", h.Algorithm, h.KeyID)
	case h.KeyID == "" && v.keyed:
		return v.breaks(v.at, BreakKey, "the records from here on are not protected by a key, but those before are")
	}
	v.linker = v.linkers[i]
	v.keyed = v.keyed || h.KeyID != ""
	return nil
}

// advance counts a verified record and compares it with the expected heads.
func (v *verifier) advance(head chain.Head) error {
	if slices.ContainsFunc(v.heads, func(want chain.Head) bool { return want.Seq == head.Seq && want.Chain != head.Chain }) {
		return v.breaks(v.at, BreakHead, "record %d does not match the expected head: it, or a record before it, was replaced", head.Seq)
	}
	v.heads = slices.DeleteFunc(v.heads, func(want chain.Head) bool { return want == head })
	if v.report.Records == 0 {
		v.report.First = head
	}
	v.report.Records++
	v.report.Last = head
	return nil
}

// finish checks the conditions that only the end of all files shows.
func (v *verifier) finish() {
	last := v.report.Last.Seq
	switch {
	case v.report.Break != nil:
	case !v.unchained.Empty() && v.torn:
		_ = v.breaks(v.unchainedAt, BreakTorn, "the last line is incomplete; this is normal if the broker is writing the file now")
	case !v.unchained.Empty():
		_ = v.breaks(v.unchainedAt, BreakUnchained, "this line is not a record, and no record after it declares it")
	case len(v.linkers) > 1 && !v.keyed && v.report.Records > 0:
		_ = v.breaks(v.at, BreakKey, "none of the records is protected by the key")
	case len(v.heads) > 0 && v.heads[0].Seq > last:
		_ = v.breaks(v.at, BreakHead, "the log ends with record %d, and the expected head is record %d", last, v.heads[0].Seq)
	case len(v.heads) > 0:
		_ = v.breaks(v.at, BreakHead, "record %d, the expected head, is before record %d, with which these files begin", v.heads[0].Seq, v.report.First.Seq)
	}
}
