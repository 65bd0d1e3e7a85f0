package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// Changed is not called concurrently, and gets the latest value only.
func TestFollowCallbacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newStub(t)
		b.set("ref-p", "1", "p-1")
		var r reader
		var running sync.Mutex
		f, err := b.api.Follow(t.Context(), FollowRequest{Sets: map[string]FollowSet{"db": followSet("p")}, Changed: func(_ context.Context, changes []Change) {
			if !running.TryLock() {
				t.Error("Changed is called concurrently")
				return
			}
			defer running.Unlock()
			time.Sleep(time.Minute)
			r.add(changes[0].Value.Reveal())
		}})
		if err != nil {
			t.Fatal(err)
		}
		s, _ := b.latest()
		for i := range 5 {
			version := fmt.Sprint(i + 2)
			b.set("ref-p", version, "p-"+version)
			s.tell(i == 0, noticeOf("p", changed, version))
			time.Sleep(time.Second)
			if v, err := f.Get("db", "p"); err != nil || v.Version != version {
				t.Errorf("Get during Changed: %s, %v", v.Version, err)
			}
		}
		time.Sleep(3 * time.Minute)
		wantLines(t, r.take(), "p-2", "p-6")
		f.Close()
	})
}

// A Follower that cannot have all values does not begin.
func TestFollowErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newStub(t)
		b.refuse("ref-p", ReasonAccessDenied, 0)
		many := FollowSet{IntegrationID: "prod", Configs: make(map[string]string)}
		for i := range maxWatched + 1 {
			reference := fmt.Sprint("many-", i)
			many.Configs[reference] = reference
			b.set(reference, "1", "x")
		}
		for _, tt := range []struct {
			sets map[string]FollowSet
			want Reason
		}{
			{map[string]FollowSet{"db": followSet("p")}, ReasonAccessDenied},
			{map[string]FollowSet{"db": many}, ReasonInvalidRequest},
			{nil, ReasonInvalidRequest},
		} {
			if f, err := b.api.Follow(t.Context(), FollowRequest{Sets: tt.sets}); !errors.Is(err, tt.want) || f != nil {
				t.Errorf("%v, want %s", err, tt.want)
			}
		}
		if len(b.streams) > 0 {
			t.Error("a stream was opened")
		}
	})
}

// The end of the context, of the Follower or of the client ends everything.
func TestFollowEnds(t *testing.T) {
	for name, end := range map[string]func(f *following, cancel func()){
		"context": func(_ *following, cancel func()) { cancel() },
		"Close":   func(f *following, _ func()) { f.Close() },
		"client":  func(f *following, _ func()) { f.api.end() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // waits for all goroutines
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				f := &following{stub: newStub(t)}
				f.set("ref-p", "1", "p-1")
				var err error
				if f.Follower, err = f.api.Follow(ctx, FollowRequest{Sets: map[string]FollowSet{"db": followSet("p")}, Changed: f.changed}); err != nil {
					t.Fatal(err)
				}
				own := f.sets["db"].values["p"].value
				end(f, cancel)
				synctest.Wait()
				if _, err := f.Get("db", "p"); !errors.Is(err, context.Canceled) {
					t.Errorf("Get: %v", err)
				}
				if err := f.Err(); !errors.Is(err, context.Canceled) {
					t.Errorf("Err: %v", err)
				}
				if err := f.Update(t.Context(), map[string]FollowSet{"db": followSet("p")}); err == nil {
					t.Error("Update succeeds")
				}
				defer func() {
					if recover() == nil {
						t.Error("the value was not wiped")
					}
				}()
				own.Reveal()
			})
		})
	}
}

// Close ends a Follower whose call of Resolve is under way.
func TestFollowEndsDuringResolve(t *testing.T) {
	withFollower(t, func(t *testing.T, f *following) { // calls Close
		s, _ := f.latest()
		f.hang()
		s.tell(true, noticeOf("p", changed, "2"))
		synctest.Wait()
		if n, _ := f.calls(); n != 1 {
			t.Errorf("%d calls", n)
		}
	})
}

// A message that the first stream has received before it ended does not count after Update.
func TestFollowReplacedStream(t *testing.T) {
	withFollower(t, func(t *testing.T, f *following) {
		f.latest() // waits for the first stream
		before := f.stream
		updated := make(chan error)
		go func() { updated <- f.Update(t.Context(), map[string]FollowSet{"db": followSet("p")}) }()
		second, _ := f.latest()
		second.tell(true, noticeOf("p", current, "1"))
		if err := <-updated; err != nil {
			t.Fatal(err)
		}
		lost := &ConfigError{Config: "p", Reason: ReasonAccessDenied}
		before.take(&WatchResponse{Notices: []Notice{{Config: "p", State: NoticeDenied, Err: lost}}})
		f.want(t, "p", "p-1")
		before.refuse(&Error{Code: codes.Unauthenticated, Reason: ReasonCertificateDenied})
		f.want(t, "p", "p-1")
	})
}

// Update opens a second stream before it ends the first, and keeps the values.
func TestFollowUpdate(t *testing.T) {
	withFollower(t, func(t *testing.T, f *following) {
		first, _ := f.latest()
		first.tell(true, noticeOf("p", current, "1"))
		f.set("ref-q", "1", "q-1")
		updated := make(chan error)
		update := func(ctx context.Context, sets map[string]FollowSet) {
			go func() { updated <- f.Update(ctx, sets) }()
		}
		update(t.Context(), map[string]FollowSet{"db": followSet("p"), "other": followSet("q")})
		second, n := f.latest()
		if n != 2 || first.ctx.Err() != nil || second.request.GetSets()[0].GetKnownVersions()["p"] != "1" {
			t.Fatalf("%d streams, request %v", n, second.request)
		}
		if _, err := f.Get("other", "q"); err == nil {
			t.Error("the new set is visible early")
		}
		if calls, last := f.calls(); calls != 1 || last.GetConfigs()["q"] == "" {
			t.Errorf("%d calls, last %v", calls, last)
		}
		// The replica of the second stream knows of a grant that the first one's does not.
		q := noticeOf("q", current, "1")
		q.Set = 1
		second.tell(false, noticeOf("p", current, "1"), q)
		synctest.Wait()
		first.tell(false, problemOf("p", denied, ReasonAccessDenied))
		f.want(t, "p", "ACCESS_DENIED")
		second.tell(true)
		if err := <-updated; err != nil {
			t.Fatal(err)
		}
		f.want(t, "p", "p-1")
		if v, err := f.Get("other", "q"); err != nil || v.Reveal() != "q-1" {
			t.Errorf("the new set: %v", err)
		}
		if first.ctx.Err() == nil || second.ctx.Err() != nil {
			t.Error("the first stream is open, or the second one is not")
		}
		// A second stream that never completes changes nothing.
		ctx, cancel := context.WithCancel(t.Context())
		update(ctx, map[string]FollowSet{"new": followSet("p")})
		third, _ := f.latest()
		cancel()
		if err := <-updated; !errors.Is(err, context.Canceled) {
			t.Errorf("Update: %v", err)
		}
		f.onOpen(func(_ int, s *stubStream) { s.end(withReason(codes.InvalidArgument, ReasonInvalidRequest), 0) })
		update(t.Context(), map[string]FollowSet{"new": followSet("p")})
		if err := <-updated; !errors.Is(err, ReasonInvalidRequest) {
			t.Errorf("Update: %v", err)
		}
		f.onOpen(nil)
		synctest.Wait()
		if third.ctx.Err() == nil || second.ctx.Err() != nil || f.Err() != nil {
			t.Errorf("after failed updates: %v", f.Err())
		}
		f.want(t, "p", "p-1")
		// The set that is gone is not available.
		update(t.Context(), map[string]FollowSet{"other": followSet("q")})
		last, _ := f.latest()
		last.tell(true, noticeOf("q", current, "1"))
		if err := <-updated; err != nil {
			t.Fatal(err)
		}
		f.want(t, "p", "INVALID_REQUEST")
	})
}

// A whole connector is sent as it is.
func TestFollowWholeConnector(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newStub(t)
		b.set("ref-p", "1", "p-1")
		set := followSet("p")
		set.Configs[enabledProperty] = "true"
		f, err := b.api.Follow(t.Context(), FollowRequest{Sets: map[string]FollowSet{"db": set}})
		if err != nil {
			t.Fatal(err)
		}
		s, _ := b.latest()
		if known := s.request.GetSets()[0].GetKnownVersions(); len(known) != 1 {
			t.Errorf("known versions %v", known)
		}
		b.set("ref-p", "2", "p-2")
		s.tell(true, noticeOf("p", changed, "2"))
		synctest.Wait()
		if n, last := b.calls(); n != 2 || len(last.GetConfigs()) != 2 {
			t.Errorf("%d calls, last %v", n, last)
		}
		if v, err := f.Get("db", "p"); err != nil || v.Reveal() != "p-2" {
			t.Errorf("%v, %v", v.Version, err)
		}
		f.Close()
	})
}

// Get is free of races with changes. The race detector finds others.
func TestFollowRace(t *testing.T) {
	withFollower(t, func(t *testing.T, f *following) {
		s, _ := f.latest()
		var readers sync.WaitGroup
		stop := make(chan struct{})
		for range 4 {
			readers.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if v, err := f.Get("db", "p"); err == nil && !strings.HasPrefix(v.Reveal(), "p-") {
						t.Error("another value")
					}
					time.Sleep(time.Millisecond)
				}
			})
		}
		for i := range 200 {
			version := fmt.Sprint(i + 2)
			f.set("ref-p", version, "p-"+version)
			s.tell(false, noticeOf("p", changed, version))
			if i%10 == 0 {
				s.tell(false, problemOf("p", secretbrokerv1.Notice_STATE_DENIED, ReasonAccessDenied), noticeOf("p", changed, version))
			}
			time.Sleep(time.Millisecond)
		}
		close(stop)
		readers.Wait()
		time.Sleep(time.Minute)
		f.want(t, "p", "p-201")
	})
}
