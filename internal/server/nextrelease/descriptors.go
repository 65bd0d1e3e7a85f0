package nextrelease

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// The numbers of what the next release adds: outside the range of fields that restrict what
// may be answered, which a broker refuses if it does not know them.
const (
	textField  = 900
	partField  = 901
	enumNumber = 99
)

// thisRelease has the files of this release in the order of their imports.
func thisRelease() []protoreflect.FileDescriptor {
	return []protoreflect.FileDescriptor{
		secretbrokerv1.File_secretbroker_v1_resolver_proto,
		secretbrokerv1.File_secretbroker_v1_integration_proto,
		secretbrokerv1.File_secretbroker_v1_policy_proto,
		secretbrokerv1.File_secretbroker_v1_watch_proto,
	}
}

// Files returns the files of the API: of this release, or of an invented next one, which
// adds two fields to every message and a value to every enum.
func Files(next bool) (*protoregistry.Files, error) {
	files := new(protoregistry.Files)
	for i, fd := range thisRelease() {
		if next {
			var err error
			if fd, err = nextFile(fd, i, files); err != nil {
				return nil, err
			}
		}
		if err := files.RegisterFile(fd); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// nextFile returns a file as the next release has it. imported has the files before it.
func nextFile(fd protoreflect.FileDescriptor, index int, imported *protoregistry.Files) (protoreflect.FileDescriptor, error) {
	file := protodesc.ToFileDescriptorProto(fd)
	part := fmt.Sprintf("NextPart%d", index)
	for _, m := range file.GetMessageType() {
		extend(m, "."+file.GetPackage()+"."+part)
	}
	for _, e := range file.GetEnumType() {
		addValue(e)
	}
	file.MessageType = append(file.MessageType, &descriptorpb.DescriptorProto{
		Name:  proto.String(part),
		Field: []*descriptorpb.FieldDescriptorProto{field("text", 1, descriptorpb.FieldDescriptorProto_TYPE_STRING, "")},
	})
	return protodesc.NewFile(file, resolver{imported})
}

// extend adds the next release's fields to a message and to those that it defines.
func extend(m *descriptorpb.DescriptorProto, part string) {
	if m.GetOptions().GetMapEntry() {
		return
	}
	m.Field = append(m.Field,
		field("next_text", textField, descriptorpb.FieldDescriptorProto_TYPE_STRING, ""),
		field("next_part", partField, descriptorpb.FieldDescriptorProto_TYPE_MESSAGE, part))
	for _, nested := range m.GetNestedType() {
		extend(nested, part)
	}
	for _, e := range m.GetEnumType() {
		addValue(e)
	}
}

func field(name string, number int32, kind descriptorpb.FieldDescriptorProto_Type, typeName string) *descriptorpb.FieldDescriptorProto {
	f := &descriptorpb.FieldDescriptorProto{
		Name: proto.String(name), Number: proto.Int32(number), Type: kind.Enum(),
		Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(),
	}
	if typeName != "" {
		f.TypeName = proto.String(typeName)
	}
	return f
}

func addValue(e *descriptorpb.EnumDescriptorProto) {
	e.Value = append(e.Value, &descriptorpb.EnumValueDescriptorProto{
		Name: proto.String(e.GetValue()[0].GetName() + "_OF_THE_NEXT_RELEASE"), Number: proto.Int32(enumNumber),
	})
}

// resolver finds imports in the next release's files first.
type resolver struct{ next *protoregistry.Files }

func (r resolver) FindFileByPath(path string) (protoreflect.FileDescriptor, error) {
	fd, err := r.next.FindFileByPath(path)
	if errors.Is(err, protoregistry.NotFound) {
		return protoregistry.GlobalFiles.FindFileByPath(path)
	}
	return fd, err
}

func (r resolver) FindDescriptorByName(name protoreflect.FullName) (protoreflect.Descriptor, error) {
	d, err := r.next.FindDescriptorByName(name)
	if errors.Is(err, protoregistry.NotFound) {
		return protoregistry.GlobalFiles.FindDescriptorByName(name)
	}
	return d, err
}
