package nextrelease

import (
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// NextReason is a reason that only the next release knows.
const NextReason = "REASON_OF_THE_NEXT_RELEASE"

// texts has the values of text fields that must not be invented: a client reads on while
// there is a next page, and the command line knows the kinds and patterns of their files.
var texts = map[protoreflect.Name]string{
	"next_page_token": "",
	"kind":            "AZURE_KEY_VAULT",
	"principal":       "spiffe://example.org/connect/worker-1",
	"principals":      "spiffe://example.org/connect/*",
	"creator":         "spiffe://example.org/owner",
	"updater":         "spiffe://example.org/owner",
	"store":           "https://my-vault.vault.azure.net",
	"stores":          "https://my-vault.vault.azure.net",
	"secret":          "db-secret",
	"secrets":         "db-*",
	"reason":          "SECRET_NOT_FOUND",
	"id":              "prod",
	"integration_id":  "prod",
	"grant_id":        "workers",
	"request_id":      "0123456789abcdef0123456789abcdef",
	"etag":            "e1",
	"problem":         "",
	"config":          "database.password", // of a Notice
}

// settings are those of an integration of the kind in texts.
var settings = map[string]any{
	"tenant_id": "8d3f6a52-1c0b-4a7e-9f25-6b1e0c9d4a10", "client_id": "c2a97b14-5e6d-4f38-8b0a-73d5e1f2a649",
	"credential": map[string]any{"type": "managed_identity"}, "vaults": []any{"https://my-vault.vault.azure.net"},
}

// filler makes messages in which every field is set.
type filler struct {
	next bool
	// inside has the messages around the field that is set, to end recursive ones.
	inside []protoreflect.FullName
}

// message returns a message with every field set.
func (f *filler) message(md protoreflect.MessageDescriptor) proto.Message {
	m := dynamicpb.NewMessage(md)
	f.inside = append(f.inside, md.FullName())
	defer func() { f.inside = f.inside[:len(f.inside)-1] }()
	fields := md.Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		switch {
		case f.recursive(fd):
		case fd.IsMap():
			m.Mutable(fd).Map().Set(protoreflect.ValueOfString("database.password").MapKey(), f.value(fd.MapValue()))
		case fd.IsList():
			m.Mutable(fd).List().Append(f.value(fd))
		default:
			m.Set(fd, f.value(fd))
		}
	}
	return m
}

func (f *filler) recursive(fd protoreflect.FieldDescriptor) bool {
	if fd.Message() == nil {
		return false
	}
	for _, name := range f.inside {
		if name == fd.Message().FullName() {
			return true
		}
	}
	return false
}

// value returns a value for a field, or for an element of it.
func (f *filler) value(fd protoreflect.FieldDescriptor) protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		if f.next {
			return protoreflect.ValueOfEnum(enumNumber)
		}
		return protoreflect.ValueOfEnum(1)
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(f.text(fd.Name()))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte("bytes"))
	case protoreflect.Int32Kind:
		if fd.Name() == "set" { // the index of a set of the request
			return protoreflect.ValueOfInt32(0)
		}
		return protoreflect.ValueOfInt32(7)
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(7)
	case protoreflect.MessageKind:
		return protoreflect.ValueOfMessage(f.part(fd.Message()))
	default:
		panic("nextrelease: no value for fields such as " + string(fd.FullName()))
	}
}

func (f *filler) text(name protoreflect.Name) string {
	if f.next && name == "reason" {
		return NextReason
	}
	if text, ok := texts[name]; ok {
		return text
	}
	return string(name) + "-text"
}

// part returns the message of a field.
func (f *filler) part(md protoreflect.MessageDescriptor) protoreflect.Message {
	var known proto.Message
	switch md.FullName() {
	case "google.protobuf.Timestamp":
		known = timestamppb.New(time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC))
	case "google.protobuf.Duration":
		known = durationpb.New(90 * time.Second)
	case "google.protobuf.Struct":
		s, err := structpb.NewStruct(settings)
		if err != nil {
			panic(err) // settings is a constant
		}
		known = s
	default:
		return f.message(md).ProtoReflect()
	}
	data, err := proto.Marshal(known)
	if err != nil {
		panic(err) // known is valid
	}
	m := dynamicpb.NewMessage(md)
	if err := proto.Unmarshal(data, m); err != nil {
		panic(err) // the same message
	}
	return m
}
