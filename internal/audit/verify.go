package audit

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strconv"
)

// VerifyConfig says what a log is checked against.
type VerifyConfig struct {
	// Keys are all keys that the log was written with. If there is one, records
	// that are not protected by a key are a fault, unless they come before the
	// first that are.
	Keys []*Key
	// Heads were noted earlier: the log must lead through each of them.
	Heads []Head
}

// Verify checks the chain of a log that stands in the files, in the order in
// which they were written; see Stdin and gzip at readLines. Memory does not grow
// with them. The error says that something could not be read; what is wrong with
// what was read stands in the report.
//
// A chain without a key, and without a head that was kept elsewhere, shows
// accidents and clumsy changes: whoever may write the file can compute it anew.
func Verify(ctx context.Context, cfg VerifyConfig, files []string) (*Report, error) {
	if len(files) == 0 {
		return nil, errors.New("no files")
	}
	v := newVerifier(cfg)
	if err := readLines(ctx, files, v.line); err != nil {
		return nil, err
	}
	v.finish()
	v.report.sort(files)
	return v.report, nil
}

// place is where something stands.
type place struct {
	file string
	line int
}

// verifier follows a chain, line by line. A record that does not fit is taken
// for what it most likely is, and the chain followed from there, so that one
// change is one finding.
type verifier struct {
	report *Report
	heads  []Head

	linkers []*linker // one for every key, and the one without
	linker  *linker   // of the records just now; nil if its key is not at hand
	keyed   bool      // a record was protected by a key

	begun bool
	at    place
	// first says that the line is its file's first.
	first bool
	// next are the values that the next record may follow: that of the last one
	// and, where that one was changed, what it should be.
	next []chainValue
	// before are those that the last record may have followed, and blamed is what
	// was found wrong with it, if anything.
	before []chainValue
	blamed *Finding

	gaps []*gap

	loose     loose
	loosePart bool // the last line of it has no newline
	looseAt   place
	looseN    int // lines
}

func newVerifier(cfg VerifyConfig) *verifier {
	v := &verifier{report: &Report{}, heads: slices.Clone(cfg.Heads)}
	for _, k := range cfg.Keys {
		v.linkers = append(v.linkers, newLinker(k))
	}
	v.linkers = append(v.linkers, newLinker(nil))
	v.linker = v.linkers[len(v.linkers)-1]
	return v
}

// line is handed every line of all files.
func (v *verifier) line(l rawLine) error {
	v.first = v.at.file != l.file || l.n == 1
	if v.first {
		v.loose.endLine()
	}
	v.at = place{l.file, l.n}
	body, head, ok := unseal(l.text)
	if l.long || !ok {
		v.addLoose(l)
		return nil
	}
	v.report.Records++
	marker, isMarker := parseMarker(l.text)
	if isMarker {
		v.chooseLinker(&marker, body, head)
	}
	v.record(body, head, &marker)
	v.settleLoose(&marker)
	return nil
}

func (v *verifier) addLoose(l rawLine) {
	if !v.loose.any {
		v.looseAt, v.looseN = v.at, 0
	}
	if !l.long || l.ended { // of a long line the end counts
		v.looseN++
	}
	if len(l.text) > 0 {
		v.loose.add(l.text)
	}
	if l.ended {
		if len(l.text) == 0 {
			v.loose.add([]byte{'\n'})
		} else {
			v.loose.endLine()
		}
	}
	v.loosePart = !l.ended
}

// chooseLinker finds how the records from the marker on are chained: as it says,
// or, if it does not say the truth, as it is chained itself.
func (v *verifier) chooseLinker(m *Marker, body []byte, head Head) {
	if v.linker != nil && v.fits(v.linker, m, body, head) && v.linker.keyID == m.KeyID {
		return
	}
	for _, k := range v.linkers {
		if v.fits(k, m, body, head) {
			v.useLinker(k)
			return
		}
	}
	for _, k := range v.linkers {
		if k.keyID == m.KeyID && k.algorithm() == m.Algorithm {
			v.useLinker(k)
			return
		}
	}
	if m.Algorithm == algorithmKeyed && m.KeyID != "" {
		v.report.add(v.at, Unkeyed, "the records from here on were written with the key %q, which was not given, and cannot be verified", m.KeyID)
		v.linker, v.keyed = nil, true
	}
}

func (v *verifier) useLinker(k *linker) {
	if k.keyID == "" && v.keyed {
		v.report.add(v.at, Unkeyed, "the records from here on are not protected by a key, although those before are")
	}
	v.linker = k
	v.keyed = v.keyed || k.keyID != ""
}

// fits says whether a marker is chained by k to what it should follow, or to what
// it says it follows.
func (v *verifier) fits(k *linker, m *Marker, body []byte, head Head) bool {
	follows := append([]chainValue{{}}, v.next...)
	if previous, ok := m.previous(); ok {
		follows = append(follows, previous.Chain)
	}
	return slices.ContainsFunc(follows, func(c chainValue) bool { return k.link(c, body) == head.Chain })
}

// linked says whether the body has that value after one of follows. It knows no
// better if the key is not at hand.
func (v *verifier) linked(follows []chainValue, body []byte, value chainValue) bool {
	return v.linker == nil || slices.ContainsFunc(follows, func(c chainValue) bool { return v.linker.link(c, body) == value })
}

// advance makes head the last record.
func (v *verifier) advance(head Head, next []chainValue, blamed *Finding) {
	v.before, v.next, v.blamed = v.next, next, blamed
	if !v.begun {
		v.begun, v.report.First = true, head
	}
	v.report.Last = head
	if blamed == nil {
		v.expect(head)
	}
}

// expect ticks off the expected heads that head answers.
func (v *verifier) expect(head Head) {
	v.heads = slices.DeleteFunc(v.heads, func(want Head) bool {
		if want.Seq != head.Seq {
			return false
		}
		if want.Chain != head.Chain {
			v.report.add(v.at, HeadMissing, "record %d is not the one that the expected head names: it, or something before it, was written anew", head.Seq)
		}
		return true
	})
}

// record finds the record's place in the chain.
func (v *verifier) record(body []byte, head Head, m *Marker) {
	last := v.report.Last.Seq
	switch {
	case !v.begun:
		v.begin(body, head, m)
	case head.Seq == last+1 && v.linked(v.next, body, head.Chain):
		v.advance(head, []chainValue{head.Chain}, nil)
	case head.Seq == last+1:
		f := v.report.add(v.at, Modified, "record %d is not as it was written", head.Seq)
		v.advance(head, v.either(v.next, body, head.Chain), f)
	case v.linker != nil && v.linked(v.next, renumber(body, last+1), head.Chain):
		f := v.report.add(v.at, Modified, "record %d says it is record %d", last+1, head.Seq)
		v.advance(Head{last + 1, head.Chain}, []chainValue{head.Chain}, f)
	case head.Seq > last:
		v.jump(body, head, m)
	default:
		v.back(body, head)
	}
}

// either returns what may follow a record that does not fit: the value it
// states, in case its text was changed, or the one its text has, in case the
// value was.
func (v *verifier) either(follows []chainValue, body []byte, stated chainValue) []chainValue {
	values := []chainValue{stated}
	if v.linker != nil && len(follows) > 0 {
		values = append(values, v.linker.link(follows[0], body))
	}
	return values
}

// renumber returns the body with another number.
func renumber(body []byte, seq uint64) []byte {
	i := bytes.LastIndex(body, []byte(seqField))
	return strconv.AppendUint(slices.Clone(body[:i+len(seqField)]), seq, 10)
}

// begin takes the first record there is.
func (v *verifier) begin(body []byte, head Head, m *Marker) {
	follows := []chainValue{{}}
	previous, ok := m.previous()
	switch {
	case head.Seq == 1:
	case ok && previous.Seq == head.Seq-1:
		follows = []chainValue{previous.Chain}
		v.report.add(v.at, Note, "the log goes on here from record %d in a file that was not given, whose head is %s", previous.Seq, previous)
	default:
		f := v.report.add(v.at, Removed, "the log begins with record %d: those before it, or the beginning of the file, are missing", head.Seq)
		v.advance(head, []chainValue{head.Chain}, f)
		return
	}
	var f *Finding
	next := []chainValue{head.Chain}
	if !v.linked(follows, body, head.Chain) {
		f = v.report.add(v.at, Modified, "record %d is not as it was written", head.Seq)
		next = v.either(follows, body, head.Chain)
	}
	v.advance(head, next, f)
}
