package client

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
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
		s.tell(false, problemOf("p", denied, ReasonAccessDenied))
		f.want(t, "p", "ACCESS_DENIED")
		s.tell(false, problemOf("p", unreadable, ReasonSecretNotWatchable))
		f.want(t, "p", "p-2") // at once
		f.wantReason(t, "")
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
