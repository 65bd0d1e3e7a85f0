package logread

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/secretbroker/secretbroker/internal/audit/chain"
)

// RunReport is the result of VerifyStream for the records of one run of a broker.
type RunReport struct {
	// Run is the member run of the records, "" for records that have none because they were
	// written to a file.
	Run string
	// Break is nil if all records of the run are intact. Records after it are not verified.
	Break *Break
	// First and Last are the first and the last record before Break, and Records is the
	// number of those that are intact.
	First, Last chain.Head
	Records     int
	// Anchored: the records before First are not in the input, so that First itself cannot
	// be verified. It is not in Records. Its chain value is that from which the next record
	// is verified.
	Anchored bool
	// Repeated is the number of records that occurred again, unchanged.
	Repeated int
}

// StreamReport is the result of VerifyStream.
type StreamReport struct {
	// Break is the first break in the input; nil if there is none.
	Break *Break
	// Runs are in the order in which they begin.
	Runs []*RunReport
	// OtherLines is the number of lines that are not records, such as log messages.
	OtherLines int
}

// maxRepeated is how many records of a run may follow before one of them is repeated.
const maxRepeated = 1 << 20

// VerifyStream verifies records on standard output, as they come back from a container
// runtime or a collector: mixed with other lines, from several runs of several brokers, with
// records that occur twice because two reads overlap, and without the beginning if the runtime
// has removed it. It follows the chain of each run, up to its first break.
//
// Missing, changed and moved records after the first of a run are breaks. What Verify detects
// and VerifyStream cannot: that records before the first one of a run, or a whole run, are
// missing. An expected head proves that the record of this head is there.
func VerifyStream(ctx context.Context, cfg VerifyConfig, files []string) (*StreamReport, error) {
	v := streamVerifier{heads: slices.Clone(cfg.Heads), keyed: len(cfg.Keys) > 0, runs: make(map[string]*run)}
	for _, k := range cfg.Keys {
		v.linkers = append(v.linkers, chain.NewLinker(k))
	}
	v.linkers = append(v.linkers, chain.NewLinker(nil))
	if err := streamLines(ctx, files, v.line); err != nil {
		return nil, err
	}
	v.finish()
	return &v.report, nil
}

type streamVerifier struct {
	report  StreamReport
	linkers []*chain.Linker // one per key, and then one without a key
	keyed   bool            // there is a key
	heads   []chain.Head    // expected and not found yet
	runs    map[string]*run
	at      rawLine // the last line, without its text
}

// run is the state of one run.
type run struct {
	*RunReport
	linker *chain.Linker // of the current segment; nil while it is unknown
	keyed  bool          // a record had a key
	// values are the chain values of the latest records, up to Last.
	values []chain.Value
	// first is the hash of the body of First.
	first chain.Value
}

func (v *streamVerifier) line(l streamLine) error {
	v.at = l.rawLine
	v.at.text = nil
	body, head, ok := chain.Unseal(l.text)
	if l.long || !l.isRecord || !ok {
		v.report.OtherLines++
		return nil
	}
	id := chain.Run(body)
	r := v.runs[id]
	if r == nil {
		r = &run{RunReport: &RunReport{Run: id}}
		v.runs[id] = r
		v.report.Runs = append(v.report.Runs, r.RunReport)
	}
	if r.Break != nil {
		return nil
	}
	if kind, text := v.record(r, l.text, body, head); kind != "" {
		v.breaks(r, kind, text)
	}
	return nil
}

func (v *streamVerifier) breaks(r *run, kind BreakKind, text string) {
	r.Break = &Break{v.at.file, v.at.n, v.at.offset, kind, text}
	if v.report.Break == nil {
		v.report.Break = r.Break
	}
}

// record verifies a record of a run. It returns the kind and text of a break, or "".
func (v *streamVerifier) record(r *run, line, body []byte, head chain.Head) (kind BreakKind, text string) {
	if r.First.Seq > 0 && head.Seq <= r.Last.Seq {
		return v.again(r, body, head)
	}
	follows := r.Last
	if r.First.Seq == 0 {
		r.first = sha256.Sum256(body)
	}
	header, isHeader := chain.ParseSegmentHeader(line)
	if isHeader {
		if kind, text := v.useLinker(r, &header); kind != "" {
			return kind, text
		}
	}
	if r.First.Seq == 0 {
		previous, ok := header.Previous()
		if !ok && head.Seq > 1 {
			r.Anchored = true
			v.advance(r, head)
			return "", ""
		}
		follows = previous
	}
	if head.Seq != follows.Seq+1 {
		return BreakSequence, fmt.Sprintf("found record %d, expected record %d: the records between them were removed, or moved to another place", head.Seq, follows.Seq+1)
	}
	if r.linker == nil {
		r.linker = v.matching(follows.Chain, body, head)
	}
	if r.linker == nil || r.linker.Link(follows.Chain, body) != head.Chain {
		return BreakRecord, fmt.Sprintf("the chain value of record %d does not match the record and those before it", head.Seq)
	}
	r.keyed = r.keyed || r.linker.KeyID() != ""
	r.Records++
	v.advance(r, head)
	return "", ""
}

// matching returns the linker that leads from a chain value to a record, nil if none does.
func (v *streamVerifier) matching(before chain.Value, body []byte, head chain.Head) *chain.Linker {
	for _, k := range v.linkers {
		if k.Link(before, body) == head.Chain {
			return k
		}
	}
	return nil
}

// useLinker selects the linker for the algorithm and key of a segment.
func (v *streamVerifier) useLinker(r *run, h *chain.SegmentHeader) (kind BreakKind, text string) {
	i := slices.IndexFunc(v.linkers, func(k *chain.Linker) bool { return k.KeyID() == h.KeyID && k.Algorithm() == h.Algorithm })
	switch {
	case i < 0:
		return BreakKey, fmt.Sprintf("the records from here on were written with %s and the key %q, which was not provided", h.Algorithm, h.KeyID)
	case h.KeyID == "" && r.keyed:
		return BreakKey, "the records from here on are not protected by a key, but those before are"
	}
	r.linker = v.linkers[i]
	return "", ""
}

// again compares a record with the one of the same number that was there before.
func (v *streamVerifier) again(r *run, body []byte, head chain.Head) (kind BreakKind, text string) {
	if head.Seq < r.First.Seq {
		return BreakSequence, fmt.Sprintf("record %d follows record %d: records were moved, or the files are in the wrong order", head.Seq, r.Last.Seq)
	}
	age := r.Last.Seq - head.Seq
	if age >= uint64(len(r.values)) || age+1 >= uint64(len(r.values)) && head.Seq != r.First.Seq {
		return BreakSequence, fmt.Sprintf("record %d occurs again, too late after the first time for a comparison; verify the inputs separately", head.Seq)
	}
	at := len(r.values) - 1 - int(age) //nolint:gosec // less than len(r.values)
	switch {
	case r.values[at] != head.Chain:
		return BreakSequence, fmt.Sprintf("record %d occurs again and differs: it was inserted", head.Seq)
	case head.Seq == r.First.Seq && sha256.Sum256(body) != r.first,
		at > 0 && v.matching(r.values[at-1], body, head) == nil:
		return BreakRecord, fmt.Sprintf("record %d occurs again and differs: one of the two was changed", head.Seq)
	}
	r.Repeated++
	return "", ""
}

// advance makes a record the last one of its run.
func (v *streamVerifier) advance(r *run, head chain.Head) {
	v.heads = slices.DeleteFunc(v.heads, func(want chain.Head) bool { return want == head })
	if r.First.Seq == 0 {
		r.First = head
	}
	r.Last = head
	if len(r.values) >= 2*maxRepeated { // at times, so that it costs little
		r.values = slices.Clone(r.values[maxRepeated:])
	}
	r.values = append(r.values, head.Chain)
}

// finish checks the conditions that only the end of the input shows.
func (v *streamVerifier) finish() {
	for _, report := range v.report.Runs {
		if r := v.runs[report.Run]; v.keyed && r.Break == nil && r.Records > 0 && !r.keyed {
			v.breaks(r, BreakKey, "none of the records of this run is protected by the key")
		}
	}
	if len(v.heads) > 0 && v.report.Break == nil {
		v.report.Break = &Break{v.at.file, v.at.n, v.at.offset, BreakHead, fmt.Sprintf("the input does not contain the expected head of record %d", v.heads[0].Seq)}
	}
}
