package usage

import (
	"slices"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/registry"
)

// read is the first read of a version that is not written yet.
type read struct {
	version string
	// first and last are the times of the first and the last read, in nanoseconds since
	// 1970. The last one of the entry's version is the entry's last.
	first, last int64
	requestID   string
	position    audit.Position
	// sequence and replica replace position once it is known.
	sequence uint64
	replica  string
}

// begin records that a read returned another version than the previous one of the entry.
// Its caller sets e.last.
func (e *entry) begin(u *registry.Read, now int64) {
	if i := e.find(e.version); i >= 0 {
		e.reads[i].last = e.last
	} else if e.first != 0 && e.version != "" { // its first read is written, its last one is not
		e.add(read{version: e.version, first: e.first, last: e.last})
	}
	e.version = u.Version
	if i := e.find(u.Version); i >= 0 || u.Version == "" {
		return
	}
	e.add(read{version: u.Version, first: now, last: now, requestID: strings.Clone(u.RequestID), position: u.Position})
}

func (e *entry) find(version string) int {
	return slices.IndexFunc(e.reads, func(r read) bool { return r.version == version })
}

// add adds a version, instead of the oldest one if there are too many.
func (e *entry) add(r read) {
	if len(e.reads) == registry.MaxVersions {
		oldest := 0
		for i := range e.reads {
			if e.reads[i].last < e.reads[oldest].last {
				oldest = i
			}
		}
		e.reads = slices.Delete(e.reads, oldest, oldest+1)
	}
	e.reads = append(e.reads, r)
}

// versions returns the versions with unwritten first reads, the latest first, or nil if there
// are none. committed is false if the record of one of them is not committed yet.
func (e *entry) versions(replica string) (all []registry.VersionUse, committed bool) {
	if e.reads == nil {
		return nil, true
	}
	committed = true
	if e.version != "" && e.find(e.version) < 0 { // dropped by add, or used again after its first read was written
		all = append(all, registry.VersionUse{Version: e.version, FirstAt: moment(e.first), LastAt: moment(e.last)})
	}
	for i := range e.reads {
		r := &e.reads[i]
		if r.position != (audit.Position{}) {
			seq, known := r.position.Sequence()
			committed = committed && known
			if known {
				r.sequence, r.position = seq, audit.Position{}
			}
		}
		v := registry.VersionUse{Version: r.version, FirstAt: moment(r.first), LastAt: moment(r.last), RequestID: r.requestID, Sequence: r.sequence, Replica: r.replica}
		if r.version == e.version {
			v.LastAt = moment(e.last)
		}
		if v.RequestID != "" && v.Replica == "" {
			v.Replica = replica
		}
		all = append(all, v)
	}
	return registry.LastVersions(all), committed
}

// restore adds versions whose reads could not be written. Reads that were recorded in the
// meantime are later.
func (e *entry) restore(versions []registry.VersionUse) {
	for _, v := range versions {
		first, last := v.FirstAt.UnixNano(), v.LastAt.UnixNano()
		if i := e.find(v.Version); i >= 0 {
			r := &e.reads[i]
			*r = read{version: v.Version, first: first, last: max(last, r.last), requestID: v.RequestID, sequence: v.Sequence, replica: v.Replica}
			continue
		}
		if len(e.reads) == registry.MaxVersions {
			continue // they are all later
		}
		e.reads = append(e.reads, read{version: v.Version, first: first, last: last, requestID: v.RequestID, sequence: v.Sequence, replica: v.Replica})
	}
}

func moment(nanoseconds int64) time.Time { return time.Unix(0, nanoseconds).UTC() }
