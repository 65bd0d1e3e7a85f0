package server

import (
	"cmp"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// A broker ignores the fields of a request that it does not know, as protobuf does,
// with two exceptions. Without them, a client that is newer than the broker would take
// an answer for one that respects a field which the broker never saw.
//
//   - The field numbers 1000 to 1999 of every message in a request are reserved for
//     fields that restrict what may be answered or done, such as not_read_before. A
//     broker that does not know one of them refuses the call.
//   - An Integration, a Grant, a Denial, and every message in them are stored. A broker would
//     drop a field that it does not know and report success, so it refuses all of them.
const (
	firstRestriction protowire.Number = 1000
	lastRestriction  protowire.Number = 1999
)

// storedMessages are the messages in which every unknown field is refused, with what they
// are a part of.
var storedMessages = map[protoreflect.FullName]string{
	(*secretbrokerv1.Integration)(nil).ProtoReflect().Descriptor().FullName(): "integration",
	(*secretbrokerv1.Grant)(nil).ProtoReflect().Descriptor().FullName():       "integration",
	(*secretbrokerv1.Denial)(nil).ProtoReflect().Descriptor().FullName():      "denial",
}

// checkKnown returns an error if a request has a field that this broker does not know
// and must not ignore.
func checkKnown(req any) error {
	m, ok := req.(proto.Message)
	if !ok {
		return nil
	}
	if e := unknownField(m.ProtoReflect(), ""); e != nil {
		return e
	}
	return nil
}

// unknownField returns the error for m and the messages in it. stored is the stored message
// that m is part of, "" if it is part of none.
func unknownField(m protoreflect.Message, stored string) *secret.Error {
	stored = cmp.Or(stored, storedMessages[m.Descriptor().FullName()])
	if e := refusedField(m.GetUnknown(), stored); e != nil {
		return e
	}
	// Only the fields that can contain messages, so that the check of a Resolve request,
	// which has few, costs next to nothing.
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if fd.Message() == nil || fd.IsMap() && fd.MapValue().Message() == nil || !m.Has(fd) {
			continue
		}
		if e := unknownInField(fd, m.Get(fd), stored); e != nil {
			return e
		}
	}
	return nil
}

// unknownInField is unknownField for the messages that are the value of a field.
func unknownInField(fd protoreflect.FieldDescriptor, v protoreflect.Value, stored string) (found *secret.Error) {
	switch {
	case fd.IsMap():
		v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
			found = unknownField(v.Message(), stored)
			return found == nil
		})
	case fd.IsList():
		for i := 0; i < v.List().Len() && found == nil; i++ {
			found = unknownField(v.List().Get(i).Message(), stored)
		}
	default:
		found = unknownField(v.Message(), stored)
	}
	return found
}

// refusedField looks through the unknown fields of one message.
func refusedField(unknown protoreflect.RawFields, stored string) *secret.Error {
	for len(unknown) > 0 {
		number, _, n := protowire.ConsumeField(unknown)
		if n < 0 { // protobuf has parsed it before
			return secret.Errorf(secret.ReasonInvalidRequest, "the request is not valid protobuf")
		}
		switch {
		case stored != "":
			reason := secret.ReasonInvalidIntegration
			if stored != "integration" {
				reason = secret.ReasonInvalidRequest
			}
			return secret.Errorf(reason,
				"this broker does not know field %d of the %s, and would lose it; the broker is older than its caller: upgrade the broker, or leave the field out", number, stored)
		case number >= firstRestriction && number <= lastRestriction:
			return secret.Errorf(secret.ReasonInvalidRequest,
				"this broker does not know field %d of the request, which restricts the answer; the broker is older than its caller: upgrade the broker, or leave the field out", number)
		}
		unknown = unknown[n:]
	}
	return nil
}
