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

func followSet(configs ...string) FollowSet {
	return FollowSet{IntegrationID: "prod", Configs: watchOf(configs...).Sets[0].Configs}
}

// following is a Follower of the set "db" with the config "p" and more, and what it reports.
type following struct {
	*stub
	*Follower
	reported reader
}

func (f *following) changed(_ context.Context, changes []Change) {
	for _, c := range changes {
		text := c.Set + "/" + c.Config + " "
		if c.Err != nil {
			text += string(c.Err.Reason)
		} else {
			text += c.Value.Reveal()
		}
		f.reported.add(text)
	}
}

// withFollower runs a test with a Follower whose values have the version 1.
func withFollower(t *testing.T, test func(t *testing.T, f *following), configs ...string) {
	synctest.Test(t, func(t *testing.T) {
		f := &following{stub: newStub(t)}
		configs = append(configs, "p")
		for _, config := range configs {
			f.set("ref-"+config, "1", config+"-1")
		}
		var err error
		f.Follower, err = f.api.Follow(t.Context(), FollowRequest{Sets: map[string]FollowSet{"db": followSet(configs...)}, Changed: f.changed})
		if err != nil {
			t.Fatal(err)
		}
		f.calls()
		test(t, f)
		f.Close()
	})
}

// want compares what Get returns for a config of the set "db": a value, or a reason.
func (f *following) want(t *testing.T, config, want string) {
	t.Helper()
	synctest.Wait()
	v, err := f.Get("db", config)
	got := v.Reveal()
	if e, ok := errors.AsType[*Error](err); ok {
		got = string(e.Reason)
	}
	if got != want {
		t.Errorf("%s: %q, want %q", config, got, want)
	}
}

// wantReason compares the reason that Err returns, "" for none.
func (f *following) wantReason(t *testing.T, want Reason) {
	t.Helper()
	synctest.Wait()
	var got Reason
	if e, ok := errors.AsType[*Error](f.Err()); ok {
		got = e.Reason
	}
	if got != want {
		t.Errorf("Err: %q, want %q", got, want)
	}
}

// A changed value is resolved with the time of the notice, reported and returned; the old one
// is wiped, but not the copies of the program.
func TestFollow(t *testing.T) {
	withFollower(t, func(t *testing.T, f *following) {
		f.want(t, "p", "p-1")
		s, _ := f.latest()
		if s.known("p") != "1" || s.known("q") != "1" {
			t.Errorf("request %v", s.request)
		}
		s.tell(true, noticeOf("p", current, "1"), noticeOf("q", current, "1"))
		synctest.Wait()
		if n, _ := f.calls(); n != 0 {
			t.Errorf("%d calls without a change", n)
		}
		copied, err := f.Get("db", "p")
		if err != nil {
			t.Fatal(err)
		}
		own := f.sets["db"].values["p"].value
		time.Sleep(time.Minute)
		f.set("ref-p", "2", "p-2")
		n := noticeOf("p", changed, "2")
		s.tell(false, n)
		f.want(t, "p", "p-2")
		calls, last := f.calls()
		if calls != 1 || !last.GetNotReadBefore().AsTime().Equal(n.GetFetchTime().AsTime()) || len(last.GetConfigs()) != 1 {
			t.Errorf("%d calls, last %v", calls, last)
		}
		wantLines(t, f.reported.take(), "db/p p-2")
		if copied.Reveal() != "p-1" {
			t.Error("the copy of the program has changed")
		}
		func() {
			defer func() {
				if recover() == nil {
					t.Error("the old value was not wiped")
				}
			}()
			own.Reveal()
		}()
		if all, err := f.Values("db"); err != nil || len(all) != 2 || all["q"].Reveal() != "q-1" || all["p"].Version != "2" {
			t.Errorf("Values: %v, %v", all, err)
		}
		f.wantReason(t, "")
	}, "q")
}

// The keys of one secret change together.
func TestFollowKeysOfOneSecret(t *testing.T) {
	withFollower(t, func(t *testing.T, f *following) {
		s, _ := f.latest()
		f.set("ref-p", "2", "p-2")
		f.set("ref-user", "2", "user-2")
		s.tell(true, noticeOf("p", changed, "2"), noticeOf("user", changed, "2"))
		synctest.Wait()
		if n, last := f.calls(); n != 1 || len(last.GetConfigs()) != 2 {
			t.Errorf("%d calls, last %v", n, last)
		}
		wantLines(t, f.reported.take(), "db/p p-2", "db/user user-2")
	}, "user")
}

// A caller that loses its access has no value until the access is back.
func TestFollowDenied(t *testing.T) {
	withFollower(t, func(t *testing.T, f *following) {
		s, _ := f.latest()
		s.tell(true, noticeOf("p", current, "1"), noticeOf("q", current, "1"))
		s.tell(false, problemOf("p", denied, ReasonAccessDenied))
		f.want(t, "p", "ACCESS_DENIED")
		f.want(t, "q", "q-1")
		f.wantReason(t, ReasonAccessDenied)
		if _, err := f.Values("db"); !errors.Is(err, ReasonAccessDenied) {
			t.Errorf("Values: %v", err)
		}
		s.tell(false, noticeOf("p", changed, "1"))
		f.want(t, "p", "p-1")
		f.wantReason(t, "")
		wantLines(t, f.reported.take(), "db/p ACCESS_DENIED", "db/p p-1")
	}, "q")
}

// A value without a grant is denied even if a role lets the caller watch it. A replica that
// does not know of a grant yet is asked again.
func TestFollowResolveDenied(t *testing.T) {
	withFollower(t, func(t *testing.T, f *following) {
		s, _ := f.latest()
		f.refuse("ref-p", ReasonAccessDenied, 0)
		s.tell(true, noticeOf("p", changed, "2"))
		f.want(t, "p", "ACCESS_DENIED")
		f.refuse("ref-p", "", 0)
		f.set("ref-p", "2", "p-2")
		time.Sleep(firstRetry)
		f.want(t, "p", "p-2")
		wantLines(t, f.reported.take(), "db/p ACCESS_DENIED", "db/p p-2")
	})
}

// A stream that the broker refuses because of the certificate denies all values, until it
// accepts one again.
func TestFollowRefused(t *testing.T) {
	withFollower(t, func(t *testing.T, f *following) {
		s, _ := f.latest()
		s.tell(true, noticeOf("p", current, "1"))
		synctest.Wait()
		f.onOpen(func(n int, s *stubStream) {
			if n < 5 {
				s.end(withReason(codes.Unauthenticated, ReasonCertificateDenied), 0)
			} else {
				s.tell(true, noticeOf("p", current, "1"))
			}
		})
		s.end(errAway, 0)
		time.Sleep(time.Second)
		f.want(t, "p", "CERTIFICATE_DENIED")
		time.Sleep(time.Minute)
		if _, n := f.latest(); n > 5 {
			t.Errorf("%d streams in a minute", n)
		}
		time.Sleep(5 * time.Minute)
		f.want(t, "p", "p-1")
		f.wantReason(t, "")
	})
}

// Values stay while the broker is away or cannot read a secret, and Err tells of it.
func TestFollowKeepsValues(t *testing.T) {
	withFollower(t, func(t *testing.T, f *following) {
		s, _ := f.latest()
		s.tell(true, noticeOf("p", current, "1"))
		s.tell(false, problemOf("p", unreadable, ReasonSecretDisabled))
		f.want(t, "p", "p-1")
		f.wantReason(t, ReasonSecretDisabled)
		s.tell(false, noticeOf("p", current, "1"))
		f.wantReason(t, "")
		f.onOpen(func(n int, s *stubStream) { s.end(errAway, 0) })
		s.end(errAway, 0)
		time.Sleep(time.Hour)
		f.want(t, "p", "p-1")
		f.wantReason(t, ReasonBrokerUnreachable)
		f.onOpen(func(n int, s *stubStream) { s.tell(true, noticeOf("p", current, "1")) })
		time.Sleep(maxStreamBackoff)
		f.wantReason(t, "")
		wantLines(t, f.reported.take())
		if n := strings.Count(f.log.String(), "cannot watch"); n != 1 {
			t.Errorf("%d lines in the log about one outage", n)
		}
		if n, _ := f.calls(); n != 0 {
			t.Errorf("%d calls of Resolve", n)
		}
	})
}

// A changed value that cannot be resolved is resolved again, with backoff.
func TestFollowRetries(t *testing.T) {
	for name, tt := range map[string]struct {
		fail, heal func(f *following)
		most       int // calls in an hour
	}{
		"broker away":   {func(f *following) { f.fail(errAway) }, func(f *following) { f.fail(nil) }, 500},
		"store away":    {func(f *following) { f.refuse("ref-p", ReasonStoreUnavailable, time.Second) }, func(f *following) { f.refuse("ref-p", "", 0) }, 500},
		"key missing":   {func(f *following) { f.refuse("ref-p", ReasonJSONKeyNotFound, 0) }, func(f *following) { f.refuse("ref-p", "", 0) }, 35},
		"old version":   {func(f *following) { f.set("ref-p", "1", "p-1") }, func(*following) {}, 35},
		"asked to wait": {func(f *following) { f.refuse("ref-p", ReasonOverloaded, 2*time.Minute) }, func(f *following) { f.refuse("ref-p", "", 0) }, 35},
	} {
		t.Run(name, func(t *testing.T) {
			withFollower(t, func(t *testing.T, f *following) {
				s, _ := f.latest()
				tt.fail(f)
				s.tell(true, noticeOf("p", changed, "2"))
				time.Sleep(time.Hour)
				f.want(t, "p", "p-1")
				if n, _ := f.calls(); n < 5 || n > tt.most {
					t.Errorf("%d calls in an hour", n)
				}
				tt.heal(f)
				f.set("ref-p", "2", "p-2")
				time.Sleep(longestRetry)
				f.want(t, "p", "p-2")
				f.wantReason(t, "")
				f.calls()
				time.Sleep(time.Hour)
				if n, _ := f.calls(); n != 0 {
					t.Errorf("%d calls after the change", n)
				}
			})
		})
	}
}

// A value that cannot be watched is resolved again when the broker's copy expires. Its version
// may say nothing. One that expires is resolved at once.
func TestFollowUnwatchable(t *testing.T) {
	withFollower(t, func(t *testing.T, f *following) {
		s, _ := f.latest()
		s.tell(true, problemOf("p", unreadable, ReasonSecretNotWatchable), noticeOf("q", current, "1"))
		synctest.Wait()
		f.set("ref-p", "1", "p-2")
		time.Sleep(4 * time.Minute)
		f.want(t, "p", "p-1")
		time.Sleep(2 * time.Minute)
		f.want(t, "p", "p-2")
		f.wantReason(t, "")
		wantLines(t, f.reported.take(), "db/p p-2")
		f.calls()
		s.tell(false, noticeOf("q", expiring, "1"))
		synctest.Wait()
		if n, last := f.calls(); n != 1 || last.GetConfigs()["q"] == "" {
			t.Errorf("%d calls for a value that expires, last %v", n, last)
		}
		time.Sleep(time.Hour)
		if n, _ := f.calls(); n > 40 { // the stub's copies expire and are not renewed
			t.Errorf("%d calls in an hour", n)
		}
	}, "q")
}

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
