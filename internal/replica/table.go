package replica

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"time"
)

// Key names a secret as one integration reads it: a cache.Key without its Revision.
type Key struct{ Integration, Store, Name, Version string }

// ID identifies a row: a hash of its Key and Scheme.
type ID [16]byte

// id returns the ID of a secret.
func (k *Key) id(scheme string) ID {
	h := sha256.New()
	for _, part := range [...]string{k.Integration, k.Store, k.Name, k.Version, scheme} {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(part)))
		h.Write(n[:])
		h.Write([]byte(part))
	}
	return ID(h.Sum(nil)[:16])
}

// Sighting is what a replica writes about a read.
type Sighting struct {
	ID ID
	Key
	// Scheme is the way in which Seen was computed: versions of different schemes are not
	// comparable. "" means that the store has versions.
	Scheme string
	// Seen is the version; "" if it tells other replicas nothing.
	Seen string
	// Age is how long ago the read ended, when the Sighting is sent.
	Age time.Duration
	// Forced means that reads that began before this one are to be dropped whatever their
	// version is, and ForcedAge is how long ago this one began.
	Forced    bool
	ForcedAge time.Duration
	// Fresh means that this replica watches the secret, and FreshAge is how long ago the read
	// began. Other replicas take it in place of a read of their own.
	Fresh    bool
	FreshAge time.Duration
	// Confirmation means that the row has the version already. Only FreshAge is written, and
	// only if the row still has it.
	Confirmation bool
}

// Row is a Sighting as the database has it.
type Row struct {
	Sighting
	Seq int64
	// By, ForcedBy and FreshBy are the replicas that wrote Seen, Forced, and Fresh.
	By, ForcedBy, FreshBy string
	// ForcedMark is the same in two deliveries of one Forced.
	ForcedMark int64
	// Written is how long ago the row was written. All ages are those at the poll.
	Written time.Duration
}

// Changes is the answer to a poll.
type Changes struct {
	// Seq is the number of the last row that was written, and Pruned that of the last one
	// that was deleted.
	Seq, Pruned int64
	// Now is the database's clock, since the Unix epoch.
	Now  time.Duration
	Rows []Row
}

// Lease is the state of one replica as the database has it.
type Lease struct {
	// ID identifies the process, and Name its place: a process with the same Name
	// replaces it.
	ID, Name string
	// Applied is the number up to which the replica has applied the rows.
	Applied int64
	// SeenAt is when the lease was last renewed, by the database's clock.
	SeenAt time.Time
	// Live: the lease has not expired. Serves: the replica may still answer calls.
	Live, Serves bool
}

// Table is the database. It is safe for concurrent use.
type Table interface {
	// Changes returns the rows after a sequence number, in order.
	Changes(ctx context.Context, since int64) (Changes, error)
	// WriteSightings writes rows, each only if it tells something new, and returns their
	// number. All replicas are notified.
	WriteSightings(ctx context.Context, by string, s []Sighting) (seq int64, err error)
	// PruneSightings deletes rows that are older than keep, and the oldest ones beyond most.
	PruneSightings(ctx context.Context, keep time.Duration, most int) error
	// RenewLease creates or renews a lease for a time, and sets how long the replica may
	// serve calls without another renewal. It deletes expired leases of the same name.
	RenewLease(ctx context.Context, l Lease, expires, serves time.Duration) error
	// Leases returns all leases.
	Leases(ctx context.Context) ([]Lease, error)
	// ReleaseLease deletes a lease.
	ReleaseLease(ctx context.Context, id string) error
	// SightingNotices has an element after a notification of the database.
	SightingNotices() <-chan struct{}
}
