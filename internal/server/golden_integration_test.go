package server

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// integrationSamples are messages of IntegrationService, DenialService and WhoAmI. Each field has a value that
// shows its name and number.
func integrationSamples() map[string]proto.Message {
	samples := make(map[string]proto.Message)
	services := []protoreflect.MethodDescriptors{
		secretbrokerv1.File_secretbroker_v1_integration_proto.Services().ByName("IntegrationService").Methods(),
		secretbrokerv1.File_secretbroker_v1_denial_proto.Services().ByName("DenialService").Methods(),
	}
	methods := []protoreflect.MethodDescriptor{secretbrokerv1.File_secretbroker_v1_policy_proto.Services().ByName("PolicyService").Methods().ByName("WhoAmI")}
	for _, service := range services {
		for i := range service.Len() {
			methods = append(methods, service.Get(i))
		}
	}
	for _, method := range methods {
		for _, d := range []protoreflect.MessageDescriptor{method.Input(), method.Output()} {
			mt, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
			if err != nil {
				panic(err)
			}
			m := mt.New()
			fill(m)
			samples[snake(string(d.Name()))] = m.Interface()
		}
	}
	return samples
}

func fill(m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		switch {
		case f.ContainingOneof() != nil: // google.protobuf.Value
			if f.Name() == "string_value" {
				m.Set(f, protoreflect.ValueOfString("a value"))
			}
		case f.IsMap():
			v := m.Mutable(f).Map().NewValue()
			if f.MapValue().Message() != nil {
				fill(v.Message())
			} else {
				v = scalar(f.MapValue())
			}
			m.Mutable(f).Map().Set(protoreflect.ValueOfString("name").MapKey(), v)
		case f.IsList():
			if f.Message() != nil {
				fill(m.Mutable(f).List().AppendMutable().Message())
			} else {
				m.Mutable(f).List().Append(scalar(f))
			}
		case f.Message() != nil:
			fill(m.Mutable(f).Message())
		default:
			m.Set(f, scalar(f))
		}
	}
}

func scalar(f protoreflect.FieldDescriptor) protoreflect.Value {
	n := int64(f.Number()) + 10
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(f.Enum().Values().Get(1).Number())
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(n))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(n)
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(f.Name()))
	default:
		return protoreflect.ValueOfString(string(f.Name()))
	}
}

func snake(name string) string {
	var out []byte
	for i := range len(name) {
		if c := name[i]; c >= 'A' && c <= 'Z' {
			if i > 0 {
				out = append(out, '_')
			}
			out = append(out, c+'a'-'A')
		} else {
			out = append(out, c)
		}
	}
	return string(out)
}
