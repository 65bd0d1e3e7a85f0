package client

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// wantLines compares what was yielded.
func wantLines(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// After an interruption Watch states the versions that it has told of, and tells only what is
// new.
func TestWatchResumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newStub(t)
		ctx, cancel := context.WithCancel(t.Context())
		r, wait := b.read(ctx, withKnown(watchOf("p", "q"), map[string]string{"p": "v0"}))
		s, _ := b.latest()
		if s.known("p") != "v0" || s.known("q") != "" || s.request.GetSets()[0].GetIntegrationId() != "prod" {
			t.Errorf("request %v", s.request)
		}
		s.tell(false, noticeOf("p", changed, "v1"))
		s.tell(true, noticeOf("q", current, "w1"))
		s.tell(false, noticeOf("p", changed, "v2"), noticeOf("q", expiring, "w1"))
		wantLines(t, r.take(), "p CHANGED v1", "q CURRENT w1", "complete", "p CHANGED v2", "q EXPIRING w1")
		time.Sleep(time.Hour)
		s.end(errAway, 0)
		began := time.Now()
		wantLines(t, r.take(), "interrupted")
		time.Sleep(minBackoff)
		s, n := b.latest()
		if d := s.at.Sub(began); n != 2 || d < minBackoff/2 || d > minBackoff || s.known("p") != "v2" || s.known("q") != "w1" {
			t.Errorf("stream %d after %v: %v", n, d, s.request)
		}
		s.tell(false, noticeOf("p", current, "v2"), noticeOf("q", current, "w1"))
		s.tell(true, noticeOf("q", expiring, "w1"))
		wantLines(t, r.take(), "complete")
		time.Sleep(time.Hour)
		s.end(nil, 7*time.Second)
		time.Sleep(7*time.Second - 1)
		if _, n := b.latest(); n != 2 {
			t.Errorf("%d streams before reconnect_after", n)
		}
		time.Sleep(1)
		if s, n = b.latest(); n != 3 {
			t.Fatalf("%d streams after reconnect_after", n)
		}
		s.tell(true, noticeOf("p", changed, "v3"), noticeOf("q", current, "w1"))
		wantLines(t, r.take(), "p CHANGED v3", "complete")
		cancel()
		wait()
		wantLines(t, r.take(), "error secretbroker: Canceled: context canceled")
	})
}

// A caller that may have dropped its value is told of a change when the access is back, also
// by another replica.
func TestWatchDenied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newStub(t)
		ctx, cancel := context.WithCancel(t.Context())
		r, wait := b.read(ctx, watchOf("p"))
		s, _ := b.latest()
		s.tell(true, noticeOf("p", current, "v1"))
		s.tell(false, problemOf("p", unreadable, ReasonSecretDisabled))
		s.tell(false, noticeOf("p", current, "v1"))
		s.tell(false, problemOf("p", denied, ReasonAccessDenied))
		s.end(errAway, 0)
		wantLines(t, r.take(), "p CURRENT v1", "complete", "p UNREADABLE SECRET_DISABLED", "p CURRENT v1", "p DENIED ACCESS_DENIED", "interrupted")
		time.Sleep(time.Second)
		s, _ = b.latest()
		if s.known("p") != "" {
			t.Errorf("a version is stated without access: %v", s.request)
		}
		s.tell(true, problemOf("p", denied, ReasonAccessDenied))
		s.end(errAway, 0)
		wantLines(t, r.take(), "complete", "interrupted")
		time.Sleep(time.Second)
		s, _ = b.latest()
		s.tell(true, noticeOf("p", current, "v1"))
		wantLines(t, r.take(), "p CHANGED v1", "complete")
		cancel()
		wait()
	})
}

// A broker that ends every stream at once is not called in a loop.
func TestWatchBackoff(t *testing.T) {
	for name, end := range map[string]func(*stubStream){
		"error":           func(s *stubStream) { s.end(errAway, 0) },
		"no delay":        func(s *stubStream) { s.end(nil, 0) },
		"no last message": func(s *stubStream) { s.end(errors.New("EOF"), 0) },
		"after complete":  func(s *stubStream) { s.tell(true, noticeOf("p", current, "v1")); s.end(nil, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newStub(t)
				b.onOpen(func(_ int, s *stubStream) { end(s) })
				ctx, cancel := context.WithCancel(t.Context())
				_, wait := b.read(ctx, watchOf("p"))
				time.Sleep(10 * time.Minute)
				if _, n := b.latest(); n < 40 || n > 90 {
					t.Errorf("%d streams in 10 minutes", n)
				}
				cancel()
				wait()
			})
		})
	}
}

// What the broker has decided ends a Watch; what a proxy, an old replica or an overload may
// cause does not.
func TestWatchErrors(t *testing.T) {
	for _, tt := range []struct {
		err  error
		ends bool
	}{
		{withReason(codes.InvalidArgument, ReasonInvalidRequest), true},
		{withReason(codes.Unauthenticated, ReasonCertificateDenied), true},
		{withReason(codes.ResourceExhausted, ReasonOverloaded), false},
		{withReason(codes.Unavailable, ReasonAuditUnavailable), false},
		{withReason(codes.Internal, ReasonInternal), false},
		{status.Error(codes.Unimplemented, "unknown service"), false},
		{status.Error(codes.PermissionDenied, "a proxy"), false},
		{status.Error(codes.Canceled, "a proxy"), false},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newStub(t)
			b.onOpen(func(_ int, s *stubStream) { s.end(tt.err, 0) })
			ctx, cancel := context.WithCancel(t.Context())
			r, wait := b.read(ctx, watchOf("p"))
			got := r.take()
			if ends := strings.HasPrefix(got[0], "error"); ends != tt.ends || len(got) != 1 {
				t.Errorf("%v: %q", tt.err, got)
			}
			cancel()
			wait()
		})
	}
}

// Notices that this release does not understand are ignored.
func TestWatchUnknownNotices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newStub(t)
		ctx, cancel := context.WithCancel(t.Context())
		r, wait := b.read(ctx, watchOf("p"))
		s, _ := b.latest()
		other := noticeOf("p", current, "v1")
		other.Set = 1
		s.tell(true, noticeOf("p", 99, "v1"), noticeOf("other", current, "v1"), other)
		s.end(errAway, 0)
		wantLines(t, r.take(), "complete", "interrupted")
		time.Sleep(time.Second)
		if s, _ = b.latest(); len(s.request.GetSets()[0].GetKnownVersions()) != 0 {
			t.Errorf("request %v", s.request)
		}
		cancel()
		wait()
	})
}

// The end of the loop and Client.Close end the stream.
func TestWatchEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newStub(t)
		b.onOpen(func(_ int, s *stubStream) { s.tell(true, noticeOf("p", current, "v1")) })
		for range b.api.Watch(t.Context(), watchOf("p")) {
			break
		}
		if s, _ := b.latest(); s.ctx.Err() == nil {
			t.Error("the stream is open after the loop")
		}
		r, wait := b.read(t.Context(), watchOf("p"))
		r.take()
		b.api.end()
		wait()
		wantLines(t, r.take(), "error secretbroker: Canceled: the client was closed")
		deadline, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var last error
		for _, last = range newStub(t).api.Watch(deadline, watchOf("p")) {
		}
		if !errors.Is(last, context.DeadlineExceeded) {
			t.Errorf("got %v", last)
		}
	})
}
