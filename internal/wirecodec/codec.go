// Package wirecodec encodes and decodes the two messages of the hot path,
// ResolveRequest and ResolveResponse, with hand-written code. All other messages use
// google.golang.org/protobuf.
//
// The reflection-based codec uses a fifth of the CPU time of a cached call, because both
// messages contain maps; see docs/performance.md. The encoding is identical: tests
// compare both codecs for random messages, and messages with uncommon contents (unknown
// fields, a max_age, text that is not UTF-8) are passed to the other codec. To disable
// this package, delete the option grpc.ForceServerCodecV2 in internal/server.
//
// The package knows the wire format, but not the meaning of the messages.
package wirecodec

import (
	"errors"
	"unicode/utf8"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec that this one falls back on
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// New returns the codec, for grpc.ForceServerCodecV2.
func New() encoding.CodecV2 { return codec{encoding.GetCodecV2("proto")} }

var errChanged = errors.New("wirecodec: a message changed while it was encoded")

// codec is safe for concurrent use.
type codec struct{ encoding.CodecV2 }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(*secretbrokerv1.ResolveResponse)
	if !ok || m == nil {
		if a, ok := v.(*Answer); ok {
			return c.marshalAnswer(a)
		}
		return c.marshalOther(v)
	}
	var few [8]entry
	entries, size, plain := entriesOf(m, few[:0])
	if !plain {
		return c.marshalOther(v)
	}
	if mem.IsBelowBufferPoolingThreshold(size) || size > largeSize {
		out := appendResponse(make([]byte, 0, size), m, entries)
		if len(out) != size {
			return nil, errChanged
		}
		return mem.BufferSlice{mem.SliceBuffer(out)}, nil
	}
	pool := mem.DefaultBufferPool()
	buf := pool.Get(size)
	out := appendResponse((*buf)[:0], m, entries)
	if len(out) != size {
		pool.Put(buf)
		return nil, errChanged
	}
	*buf = out
	return mem.BufferSlice{mem.NewBuffer(buf, pool)}, nil
}

// marshalOther encodes a message with protobuf. For a large message it allocates a
// buffer of the exact size.
func (c codec) marshalOther(v any) (mem.BufferSlice, error) {
	if m, ok := v.(proto.Message); ok && proto.Size(m) > largeSize {
		out, err := marshalExactly(m)
		if err != nil {
			return nil, err
		}
		return mem.BufferSlice{mem.SliceBuffer(out)}, nil
	}
	return c.CodecV2.Marshal(v)
}

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if raw, ok := v.(*Raw); ok {
		*raw = data.Materialize()
		return nil
	}
	m, ok := v.(*secretbrokerv1.ResolveRequest)
	if !ok || m == nil || len(data) != 1 {
		return c.CodecV2.Unmarshal(data, v)
	}
	// Copy the message once; all strings of m are substrings of the copy.
	if !decodeRequest(string(data[0].ReadOnlyData()), m) {
		return c.CodecV2.Unmarshal(data, v) // resets m first
	}
	return nil
}

// Raw is a message that is not decoded. A handler of a stream may receive it and decode it
// later.
type Raw []byte

// decodeRequest decodes b into m. It returns false if b is malformed or has fields that
// this code does not handle, such as max_age. m is then undefined.
func decodeRequest(b string, m *secretbrokerv1.ResolveRequest) bool {
	m.Reset()
	m.Configs = make(map[string]string, 4)
	for len(b) > 0 {
		tag := b[0]
		b = b[1:]
		switch tag {
		case 1<<3 | 2: // integration_id
			if !takeText(&b, &m.IntegrationId) {
				return false
			}
		case 2<<3 | 2: // configs
			var entry, name, value string
			if !takeBytes(&b, &entry) {
				return false
			}
			for len(entry) > 0 {
				part := &name
				if entry[0] == 2<<3|2 {
					part = &value
				} else if entry[0] != 1<<3|2 {
					return false
				}
				entry = entry[1:]
				if !takeText(&entry, part) {
					return false
				}
			}
			m.Configs[name] = value
		case 4 << 3: // allow_partial
			if len(b) == 0 || b[0] > 1 {
				return false
			}
			m.AllowPartial, b = b[0] == 1, b[1:]
		case 5<<3 | 2: // connector
			if !takeText(&b, &m.Connector) {
				return false
			}
		default:
			return false
		}
	}
	if len(m.Configs) == 0 {
		m.Configs = nil
	}
	return true
}

// takeBytes removes a length and that many bytes from b, and stores the bytes in to.
func takeBytes(b, to *string) bool {
	n, size := 0, 0
	for ; ; size++ {
		if size == len(*b) || size == 4 { // four bytes suffice for the largest message
			return false
		}
		c := (*b)[size]
		n |= int(c&0x7f) << (7 * size)
		if c < 0x80 {
			break
		}
	}
	rest := (*b)[size+1:]
	if n > len(rest) {
		return false
	}
	*to, *b = rest[:n], rest[n:]
	return true
}

func takeText(b, to *string) bool { return takeBytes(b, to) && utf8.ValidString(*to) }
