package wirecodec

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// fill sets fields of m at random, including nested messages and maps. After enough calls
// every field has been set.
func fill(r *rand.Rand, m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if r.IntN(3) == 0 {
			continue
		}
		switch {
		case f.IsMap():
			entries := m.Mutable(f).Map()
			for range r.IntN(4) {
				v := entries.NewValue()
				if f.MapValue().Message() != nil {
					fill(r, v.Message(), depth+1)
				} else {
					v = scalar(r, f.MapValue())
				}
				entries.Set(protoreflect.ValueOfString(text(r)).MapKey(), v)
			}
		case f.Message() != nil:
			fill(r, m.Mutable(f).Message(), depth+1)
		default:
			m.Set(f, scalar(r, f))
		}
	}
	if r.IntN(20) == 0 {
		m.SetUnknown([]byte{0xf8, 0x3f, byte(r.IntN(128))}) // field 1023, a varint
	}
}

func scalar(r *rand.Rand, f protoreflect.FieldDescriptor) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(text(r))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(text(r)))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(r.IntN(2) == 0)
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(r.Int64() - r.Int64())
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(r.Int32() - r.Int32())
	default:
		panic("a field of kind " + f.Kind().String() + " is new here")
	}
}

func text(r *rand.Rand) string {
	switch r.IntN(8) {
	case 0:
		return ""
	case 1:
		return strings.Repeat("long text ", r.IntN(40))
	case 2:
		return "ключ 鍵 🔑"
	case 3:
		return strings.Repeat("x", 127+r.IntN(3)) // where a length takes a second byte
	default:
		return string(rune('a'+r.IntN(26))) + string(rune('a'+r.IntN(26)))
	}
}

// TestSameWire: random messages, every field of them, go over the wire as
// google.golang.org/protobuf would send them and come out as it would read them.
func TestSameWire(t *testing.T) {
	c := New()
	r := rand.New(rand.NewPCG(1, 2)) // the same messages each time
	for range 1500 {
		res := &secretbrokerv1.ResolveResponse{}
		fill(r, res.ProtoReflect(), 0)
		checkMarshal(t, c.Marshal, res)

		req := &secretbrokerv1.ResolveRequest{}
		fill(r, req.ProtoReflect(), 0)
		data, err := proto.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		checkUnmarshal(t, data)
		if t.Failed() {
			return
		}
	}
}

// checkMarshal compares Marshal with the reference codec: by the decoded message, because
// maps have no order, and by length, because no field may be encoded twice.
func checkMarshal(t *testing.T, marshal func(any) (mem.BufferSlice, error), m proto.Message) {
	t.Helper()
	want, wantErr := proto.Marshal(m)
	got, err := marshal(m)
	if (err != nil) != (wantErr != nil) {
		t.Fatalf("%v\nMarshal: %v, want %v", m, err, wantErr)
	}
	if err != nil {
		return
	}
	defer got.Free()
	data := got.Materialize()
	if len(data) != len(want) {
		t.Errorf("%v\nencoded to %d bytes, want %d", m, len(data), len(want))
	}
	back := m.ProtoReflect().New().Interface()
	if err := proto.Unmarshal(data, back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m, back, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	// With one entry there is only one order.
	if res, ok := m.(*secretbrokerv1.ResolveResponse); ok && len(res.GetConfigs()) < 2 && len(res.GetErrors()) < 2 && !bytes.Equal(data, want) {
		t.Errorf("%v\nencoded to %x, want %x", m, data, want)
	}
}

// checkUnmarshal compares Unmarshal with the reference codec, also for data in several
// buffers.
func checkUnmarshal(t *testing.T, data []byte) {
	t.Helper()
	want := &secretbrokerv1.ResolveRequest{}
	wantErr := proto.Unmarshal(data, want)
	for _, cut := range []int{0, len(data) / 2} {
		slice := mem.BufferSlice{mem.SliceBuffer(data)}
		if cut > 0 {
			slice = mem.BufferSlice{mem.SliceBuffer(data[:cut]), mem.SliceBuffer(data[cut:])}
		}
		got := &secretbrokerv1.ResolveRequest{Connector: "left over", Configs: map[string]string{"left": "over"}}
		if err := New().Unmarshal(slice, got); (err != nil) != (wantErr != nil) {
			t.Fatalf("%x: Unmarshal: %v, want %v", data, err, wantErr)
		} else if err != nil {
			continue
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%x: %s", data, diff)
		}
	}
}

// TestByHand: common messages do not use the reference codec.
func TestByHand(t *testing.T) {
	data, err := proto.Marshal(request())
	if err != nil {
		t.Fatal(err)
	}
	got := &secretbrokerv1.ResolveRequest{}
	if !decodeRequest(string(data), got) || !proto.Equal(got, request()) {
		t.Errorf("decoded to %v", got)
	}
	if _, _, plain := entriesOf(response(), nil); !plain {
		t.Error("a common answer is not plain")
	}
}

// TestNotUTF8: text that is not UTF-8 is rejected, as the protocol requires.
func TestNotUTF8(t *testing.T) {
	bad := "a\xff"
	for _, m := range []*secretbrokerv1.ResolveResponse{
		{RequestId: bad},
		{Configs: map[string]*secretbrokerv1.ResolvedConfig{bad: {}}},
		{Configs: map[string]*secretbrokerv1.ResolvedConfig{"a": {Value: bad}}},
		{Configs: map[string]*secretbrokerv1.ResolvedConfig{"a": {Version: bad}}},
	} {
		if _, err := New().Marshal(m); err == nil {
			t.Errorf("%q was encoded", m)
		}
	}
}

func TestNil(t *testing.T) {
	checkMarshal(t, New().Marshal, &secretbrokerv1.ResolveResponse{Configs: map[string]*secretbrokerv1.ResolvedConfig{"a": nil}})
	if _, err := New().Marshal((*secretbrokerv1.ResolveResponse)(nil)); err != nil {
		t.Error(err)
	}
	checkMarshal(t, New().Marshal, &secretbrokerv1.CheckResponse{Ok: true})
}

func FuzzUnmarshal(f *testing.F) {
	data, err := proto.Marshal(request())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(data[:len(data)-1])
	withAge, err := proto.Marshal(&secretbrokerv1.ResolveRequest{MaxAge: durationpb.New(time.Second), AllowPartial: true})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(withAge)
	f.Add([]byte("\x12\x04\x0a\x01a\x12\x12\x00\x20\x02\x0a\x81\x00x"))
	f.Fuzz(checkUnmarshal)
}

func request() *secretbrokerv1.ResolveRequest {
	return &secretbrokerv1.ResolveRequest{
		IntegrationId: "cspi-sqlserver",
		Configs: map[string]string{
			"connection.user":     "https://my-vault.vault.azure.net::sqlserver-db-secret::user",
			"connection.password": "https://my-vault.vault.azure.net::sqlserver-db-secret::password",
		},
		AllowPartial: true,
		Connector:    "sqlserver-orders-cdc",
	}
}

func response() *secretbrokerv1.ResolveResponse {
	config := func(v string) *secretbrokerv1.ResolvedConfig {
		at := time.Unix(1_800_000_000, 123_456_789)
		return &secretbrokerv1.ResolvedConfig{
			Value: v, Version: "0123456789abcdef0123456789abcdef", FetchTime: timestamppb.New(at), CacheExpireTime: timestamppb.New(at.Add(time.Minute)),
		}
	}
	return &secretbrokerv1.ResolveResponse{RequestId: "0123456789abcdef0123456789abcdef", Configs: map[string]*secretbrokerv1.ResolvedConfig{
		"connection.user": config("connect"), "connection.password": config("correct-horse"),
	}}
}

func BenchmarkUnmarshal(b *testing.B) {
	data, err := proto.Marshal(request())
	if err != nil {
		b.Fatal(err)
	}
	for name, unmarshal := range map[string]func(mem.BufferSlice, any) error{"by hand": New().Unmarshal, "protobuf": New().(codec).CodecV2.Unmarshal} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := unmarshal(mem.BufferSlice{mem.SliceBuffer(data)}, &secretbrokerv1.ResolveRequest{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkMarshal(b *testing.B) {
	m := response()
	for name, marshal := range map[string]func(any) (mem.BufferSlice, error){"by hand": New().Marshal, "protobuf": New().(codec).CodecV2.Marshal} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				got, err := marshal(m)
				if err != nil {
					b.Fatal(err)
				}
				got.Free()
			}
		})
	}
}
