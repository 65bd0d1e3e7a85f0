package wirecodec

import (
	"errors"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// Answer is a message whose memory somebody keeps account of. A handler may return
// it in the place of its Message.
type Answer struct {
	Message any
	Keeper  Keeper
}

// Keeper is told what becomes of an Answer.
type Keeper interface {
	// Encoded says that the message has been encoded to so many bytes.
	Encoded(size int)
	// Gone says that gRPC has no more use for them: it has written them or dropped
	// them. It is called once unless the connection breaks down.
	Gone()
}

var errNoMessage = errors.New("wirecodec: the answer is no message")

// largeSize is the size in bytes above which gRPC's pool has but buffers of 1 MiB.
const largeSize = 32 << 10

// marshalAnswer encodes an answer into a buffer of its own, which is wiped when gRPC
// has no more use for it.
func (c codec) marshalAnswer(a *Answer) (mem.BufferSlice, error) {
	out, err := marshalExactly(a.Message)
	if err != nil {
		a.Keeper.Gone()
		return nil, err
	}
	a.Keeper.Encoded(len(out))
	return mem.BufferSlice{mem.NewBuffer(&out, keptBuffer{a.Keeper})}, nil
}

// marshalExactly encodes a message into a buffer of its size, but for small ones:
// gRPC tells of no buffer of 1,024 bytes or less.
func marshalExactly(v any) ([]byte, error) {
	const least = 1025
	if m, ok := v.(*secretbrokerv1.ResolveResponse); ok && m != nil {
		if entries, size, plain := entriesOf(m, nil); plain {
			out := appendResponse(make([]byte, 0, max(size, least)), m, entries)
			if len(out) != size {
				return nil, errChanged
			}
			return out, nil
		}
	}
	m, ok := v.(proto.Message)
	if !ok {
		return nil, errNoMessage
	}
	return proto.MarshalOptions{}.MarshalAppend(make([]byte, 0, max(proto.Size(m), least)), m)
}

// keptBuffer is the pool of one answer's buffer.
type keptBuffer struct{ keeper Keeper }

func (keptBuffer) Get(length int) *[]byte {
	b := make([]byte, length)
	return &b
}

func (k keptBuffer) Put(b *[]byte) {
	clear((*b)[:cap(*b)])
	k.keeper.Gone()
}
