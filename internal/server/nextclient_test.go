package server

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/secretbroker/secretbroker/internal/secret"
	"github.com/secretbroker/secretbroker/internal/server/nextrelease"
	"github.com/secretbroker/secretbroker/internal/watch"
)

// TestClientOfTheNextRelease calls every method of the API as a client of the next release
// does: with fields that this broker does not know. It ignores those that only ask for
// more, and refuses those that restrict the answer and those of what it would store.
func TestClientOfTheNextRelease(t *testing.T) {
	ts := startWatched(t, watch.Config{})
	files, err := nextrelease.Files(true)
	if err != nil {
		t.Fatal(err)
	}
	conns := map[bool]*grpc.ClientConn{ // by whether the method resolves
		true:  ts.dial(t, ts.ca.Client(string(granted))),
		false: ts.dial(t, ts.ca.Client(string(ownerID))),
	}
	call := func(conn *grpc.ClientConn, method string, req proto.Message) *status.Status {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		return status.Convert(conn.Invoke(ctx, method, req, &emptypb.Empty{}))
	}
	methods, stored := 0, 0
	files.RangeFiles(func(fd protoreflect.FileDescriptor) bool {
		for i := range fd.Services().Len() {
			for j := range fd.Services().Get(i).Methods().Len() {
				m := fd.Services().Get(i).Methods().Get(j)
				service := string(fd.Services().Get(i).FullName())
				method, conn := "/"+service+"/"+string(m.Name()), conns[strings.HasSuffix(service, ".ResolverService")]
				methods++
				t.Run(string(m.Name()), func(t *testing.T) {
					plain := call(conn, method, &emptypb.Empty{})
					if with := call(conn, method, withUnknown(&emptypb.Empty{}, 900)); with.Code() != plain.Code() || reasonOf(with) != reasonOf(plain) {
						t.Errorf("a field that asks for more changes the answer from %v to %v", plain, with)
					}
					if with := call(conn, method, withUnknown(&emptypb.Empty{}, 1500)); reasonOf(with) != secret.ReasonInvalidRequest || !strings.Contains(with.Message(), "field 1500") {
						t.Errorf("a field that restricts the answer is ignored: %v", with)
					}
					for _, name := range []protoreflect.Name{"integration", "grant"} {
						part := m.Input().Fields().ByName(name)
						if part == nil || part.Message() == nil {
							continue
						}
						stored++
						req := dynamicpb.NewMessage(m.Input())
						to := req.Mutable(part).Message()
						to.Set(to.Descriptor().Fields().ByName("next_text"), protoreflect.ValueOfString("x"))
						if with := call(conn, method, req); reasonOf(with) != secret.ReasonInvalidIntegration {
							t.Errorf("a field of the %s is lost: %v", name, with)
						}
					}
				})
			}
		}
		return true
	})
	if methods < 12 || stored < 4 {
		t.Errorf("only %d methods, %d of which store something, were called", methods, stored)
	}
}

// reasonOf returns the reason in the details of a status, or "".
func reasonOf(st *status.Status) secret.Reason {
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return secret.Reason(info.GetReason())
		}
	}
	return ""
}
