package wirecodec

import (
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/timestamppb"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// The tags of the encoded fields. Source: proto/secretbroker/v1/resolver.proto.
const (
	tagConfigs         = 1<<3 | 2
	tagRequestID       = 3<<3 | 2
	tagKey             = 1<<3 | 2
	tagConfig          = 2<<3 | 2
	tagValue           = 1<<3 | 2
	tagVersion         = 2<<3 | 2
	tagFetchTime       = 3<<3 | 2
	tagCacheExpireTime = 4<<3 | 2
	tagStale           = 5 << 3
	tagDecoded         = 6<<3 | 2
	tagSeconds         = 1 << 3
	tagNanos           = 2 << 3
)

// entry is a config to be encoded. length is the encoded length of the config, and held
// that of the map entry that contains it. Both are computed once.
type entry struct {
	name         string
	config       *secretbrokerv1.ResolvedConfig
	length, held int
}

// entriesOf appends the message's configs to entries. size is the length of the encoded
// message. It returns false if this code does not handle the message.
func entriesOf(m *secretbrokerv1.ResolveResponse, entries []entry) (_ []entry, size int, plain bool) {
	if len(m.GetErrors()) > 0 || len(m.ProtoReflect().GetUnknown()) > 0 || !utf8.ValidString(m.GetRequestId()) {
		return nil, 0, false
	}
	size = sizeOfText(m.GetRequestId())
	for name, config := range m.GetConfigs() {
		if config == nil || !utf8.ValidString(name) || !isPlain(config) {
			return nil, 0, false
		}
		e := entry{name: name, config: config, length: sizeOfConfig(config)}
		e.held = sizeOfEntry(name, e.length)
		entries = append(entries, e)
		size += 1 + protowire.SizeBytes(e.held)
	}
	return entries, size, true
}

func isPlain(c *secretbrokerv1.ResolvedConfig) bool {
	return c.GetSecretExpireTime() == nil && c.GetTimeLeft() == nil && utf8.ValidString(c.GetValue()) && utf8.ValidString(c.GetVersion()) && len(c.ProtoReflect().GetUnknown()) == 0 &&
		(c.GetFetchTime() == nil || len(c.GetFetchTime().ProtoReflect().GetUnknown()) == 0) &&
		(c.GetCacheExpireTime() == nil || len(c.GetCacheExpireTime().ProtoReflect().GetUnknown()) == 0)
}

// sizeOfEntry returns the length of a map entry, whose key and value are always encoded.
func sizeOfEntry(name string, config int) int {
	return 1 + protowire.SizeBytes(len(name)) + 1 + protowire.SizeBytes(config)
}

func sizeOfConfig(c *secretbrokerv1.ResolvedConfig) int {
	size := sizeOfText(c.GetValue()) + sizeOfText(c.GetVersion())
	if t := c.GetFetchTime(); t != nil {
		size += 1 + protowire.SizeBytes(sizeOfTime(t))
	}
	if t := c.GetCacheExpireTime(); t != nil {
		size += 1 + protowire.SizeBytes(sizeOfTime(t))
	}
	if c.GetStale() {
		size += 2
	}
	if n := len(c.GetDecodedValue()); n > 0 {
		size += 1 + protowire.SizeBytes(n)
	}
	return size
}

func sizeOfText(s string) int {
	if s == "" {
		return 0
	}
	return 1 + protowire.SizeBytes(len(s))
}

func sizeOfTime(t *timestamppb.Timestamp) (size int) {
	if s := t.GetSeconds(); s != 0 {
		size += 1 + protowire.SizeVarint(uint64(s)) //nolint:gosec // as the wire format has it
	}
	if n := t.GetNanos(); n != 0 {
		size += 1 + protowire.SizeVarint(uint64(n)) //nolint:gosec // as above
	}
	return size
}

// appendResponse appends the encoded message. entries must be the result of entriesOf.
func appendResponse(b []byte, m *secretbrokerv1.ResolveResponse, entries []entry) []byte {
	for i := range entries {
		e := &entries[i]
		b = appendLength(b, tagConfigs, e.held)
		b = append(appendLength(b, tagKey, len(e.name)), e.name...)
		b = appendConfig(appendLength(b, tagConfig, e.length), e.config)
	}
	return appendText(b, tagRequestID, m.GetRequestId())
}

func appendConfig(b []byte, c *secretbrokerv1.ResolvedConfig) []byte {
	b = appendText(b, tagValue, c.GetValue())
	b = appendText(b, tagVersion, c.GetVersion())
	b = appendTime(b, tagFetchTime, c.GetFetchTime())
	b = appendTime(b, tagCacheExpireTime, c.GetCacheExpireTime())
	if c.GetStale() {
		b = append(b, tagStale, 1)
	}
	if v := c.GetDecodedValue(); len(v) > 0 {
		b = append(appendLength(b, tagDecoded, len(v)), v...)
	}
	return b
}

func appendLength(b []byte, tag byte, n int) []byte {
	return protowire.AppendVarint(append(b, tag), uint64(n)) //nolint:gosec // a length
}

func appendText(b []byte, tag byte, s string) []byte {
	if s == "" {
		return b
	}
	return append(appendLength(b, tag, len(s)), s...)
}

func appendTime(b []byte, tag byte, t *timestamppb.Timestamp) []byte {
	if t == nil {
		return b
	}
	b = appendLength(b, tag, sizeOfTime(t))
	if s := t.GetSeconds(); s != 0 {
		b = protowire.AppendVarint(append(b, tagSeconds), uint64(s)) //nolint:gosec // as the wire format has it
	}
	if n := t.GetNanos(); n != 0 {
		b = protowire.AppendVarint(append(b, tagNanos), uint64(n)) //nolint:gosec // as above
	}
	return b
}
