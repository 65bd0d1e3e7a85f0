package wirecodec

import (
	"errors"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// Answer is a message whose memory is accounted for. A handler may return it instead of
// its Message.
type Answer struct {
	Message any
	Keeper  Keeper
}

// Keeper is notified of the encoding and of the release of an Answer.
type Keeper interface {
	// Encoded is called when the message has been encoded. size is in bytes.
	Encoded(size int)
	// Gone is called when gRPC has written or dropped the encoded message and has
	// released its buffer. It is called once, or not at all if the connection fails.
	Gone()
}

var errNoMessage = errors.New("wirecodec: the answer is not a message")

// largeSize is the size in bytes above which gRPC's pool provides only buffers of 1 MiB.
const largeSize = 32 << 10

// marshalAnswer encodes an answer into its own buffer, which is wiped when gRPC releases
// it.
func (c codec) marshalAnswer(a *Answer) (mem.BufferSlice, error) {
	out, err := marshalExactly(a.Message)
	if err != nil {
		a.Keeper.Gone()
		return nil, err
	}
	a.Keeper.Encoded(len(out))
	return mem.BufferSlice{mem.NewBuffer(&out, keptBuffer{a.Keeper})}, nil
}

// marshalExactly encodes a message into a buffer of the exact size, but of at least 1,025
// bytes: gRPC does not notify the pool when it releases a smaller buffer.
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

// keptBuffer is a pool for the buffer of one answer. It wipes the buffer when gRPC returns
// it.
type keptBuffer struct{ keeper Keeper }

func (keptBuffer) Get(length int) *[]byte {
	b := make([]byte, length)
	return &b
}

func (k keptBuffer) Put(b *[]byte) {
	clear((*b)[:cap(*b)])
	k.keeper.Gone()
}
