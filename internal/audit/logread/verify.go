package logread

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/secretbroker/secretbroker/internal/audit/chain"
)

// VerifyConfig says what a log is checked against.
type VerifyConfig struct {
	// Keys are all keys that the log was written with. If there is one, records
	// that are not protected by a key are a break, unless they come before the
	// first that are.
	Keys []*chain.Key
	// Heads were noted earlier: the log must lead through each of them.
	Heads []chain.Head
}

// BreakKind says what is wrong where a chain breaks. The names are a promise.
type BreakKind string

// The kinds of breaks.
const (
	// BreakRecord: a record's chain value does not fit its bytes and the record before.
	BreakRecord BreakKind = "record"
	// BreakSequence: a record has another number than the one that follows.
	BreakSequence BreakKind = "sequence"
	// BreakUnchained: there are bytes that are no record and that the next record does
	// not declare.
	BreakUnchained BreakKind = "unchained"
	// BreakTorn: the last line is cut off, and no record declares that yet. A file that
	// is being written may end so.
	BreakTorn BreakKind = "torn"
	// BreakKey: records are not protected by the key they should be protected by, or by
	// one that was not given.
	BreakKey BreakKind = "key"
	// BreakHead: the log does not lead through an expected head.
	BreakHead BreakKind = "head"
)

// Break is the first place at which a log cannot be verified.
type Break struct {
	File string `json:"file"`
	Line int    `json:"line"`
	// Offset is where the line begins, in bytes of the file once it is decompressed.
	Offset int64     `json:"offset"`
	Kind   BreakKind `json:"kind"`
	Text   string    `json:"text"`
}

// String returns the break as a line for people.
func (b *Break) String() string {
	return fmt.Sprintf("%s:%d: %s: %s (byte %d)", b.File, b.Line, b.Kind, b.Text, b.Offset)
}

// Report is what Verify found. Everything before Break is intact.
type Report struct {
	// Break is nil if all of the log is intact.
	Break *Break
	// Records is how many records are intact, First and Last the first and the last of
	// them; both are zero if there is none.
	Records     int
	First, Last chain.Head
	// Previous is the head in an earlier file, which was not given, that First says it
	// follows. It is zero if First is record 1.
	Previous chain.Head
	// UnchainedBytes is how many bytes are no record and were declared by the record
	// after them: lines that a crash or a full disk cut off, or older than the chain.
	UnchainedBytes int64
}

// Verify follows the chain of a log through the files, in the order in which they were
// written, up to the first break. Memory does not grow with them. The error says that
// something could not be read.
//
// Verify does not look beyond the first break: from there on the chain proves nothing,
// and whoever made the break could have made everything after it.
//
// A chain without a key, and without a head that was kept elsewhere, shows accidents and
// clumsy changes only: anybody who may write the file can compute a new one.
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

// errBroken ends the reading at the first break.
var errBroken = errors.New("the chain is broken")

// verifier follows a chain, line by line.
type verifier struct {
	report Report
	heads  []chain.Head // not reached yet

	linkers []*chain.Linker // one for every key, and the one without
	linker  *chain.Linker   // of the current segment
	keyed   bool            // a record was protected by a key

	at rawLine // the current line, without its text

	// unchained are the lines since the last record that are no record. The first of
	// them is unchainedAt; torn says that the last of them has no newline.
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

// breaks notes the break. It returns errBroken.
func (v *verifier) breaks(at rawLine, kind BreakKind, format string, args ...any) error {
	v.report.Break = &Break{at.file, at.n, at.offset, kind, fmt.Sprintf(format, args...)}
	return errBroken
}

// line takes the next line of all files.
func (v *verifier) line(l rawLine) error {
	if l.offset == 0 {
		v.unchained.EndLine() // of the file before
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

// record takes a record.
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
		return v.breaks(v.at, BreakSequence, "a new chain begins here with record 1, although the log before ends with record %d", follows.Seq)
	case !header.Declares(&v.unchained) && v.unchained.Empty():
		return v.breaks(v.at, BreakUnchained, "the %d bytes that this record declares are missing before it", header.UnchainedBytes)
	case !header.Declares(&v.unchained):
		return v.breaks(v.unchainedAt, BreakUnchained, "this is no record, and the next record does not declare it")
	case head.Seq != follows.Seq+1 && v.report.Records == 0:
		return v.breaks(v.at, BreakSequence, "the log begins with record %d: the records before it are missing", head.Seq)
	case head.Seq != follows.Seq+1:
		return v.breaks(v.at, BreakSequence, "record %d is here, and record %d should be", head.Seq, follows.Seq+1)
	case v.linker.Link(follows.Chain, body) != head.Chain:
		return v.breaks(v.at, BreakRecord, "the chain value of record %d does not fit the record and those before it", head.Seq)
	}
	v.report.UnchainedBytes += header.UnchainedBytes
	v.unchained.Reset()
	return v.advance(head)
}

// useLinker chooses the linker that the header of a segment names.
func (v *verifier) useLinker(h *chain.SegmentHeader) error {
	i := slices.IndexFunc(v.linkers, func(k *chain.Linker) bool { return k.KeyID() == h.KeyID && k.Algorithm() == h.Algorithm })
	switch {
	case i < 0:
		return v.breaks(v.at, BreakKey, "the records from here on were written with %s and the key %q, which was not given", h.Algorithm, h.KeyID)
	case h.KeyID == "" && v.keyed:
		return v.breaks(v.at, BreakKey, "the records from here on are not protected by a key, although those before are")
	}
	v.linker = v.linkers[i]
	v.keyed = v.keyed || h.KeyID != ""
	return nil
}

// advance makes head the last record.
func (v *verifier) advance(head chain.Head) error {
	if slices.ContainsFunc(v.heads, func(want chain.Head) bool { return want.Seq == head.Seq && want.Chain != head.Chain }) {
		return v.breaks(v.at, BreakHead, "record %d is not the one that the expected head names: it, or something before it, was replaced", head.Seq)
	}
	v.heads = slices.DeleteFunc(v.heads, func(want chain.Head) bool { return want == head })
	if v.report.Records == 0 {
		v.report.First = head
	}
	v.report.Records++
	v.report.Last = head
	return nil
}

// finish looks for what only the end of all files shows.
func (v *verifier) finish() {
	last := v.report.Last.Seq
	switch {
	case v.report.Break != nil:
	case !v.unchained.Empty() && v.torn:
		_ = v.breaks(v.unchainedAt, BreakTorn, "the last line is cut off; if this file is being written, that may be all of it")
	case !v.unchained.Empty():
		_ = v.breaks(v.unchainedAt, BreakUnchained, "this is no record, and no record after it declares it")
	case len(v.linkers) > 1 && !v.keyed && v.report.Records > 0:
		_ = v.breaks(v.at, BreakKey, "none of the records is protected by the key")
	case len(v.heads) > 0 && v.heads[0].Seq > last:
		_ = v.breaks(v.at, BreakHead, "the log ends with record %d, and the expected head is record %d", last, v.heads[0].Seq)
	case len(v.heads) > 0:
		_ = v.breaks(v.at, BreakHead, "record %d, the expected head, is before record %d, with which these files begin", v.heads[0].Seq, v.report.First.Seq)
	}
}
