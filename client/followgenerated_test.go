package client

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

const testLease = time.Hour

// lease makes the broker answer with a credential whose lease begins now.
func (f *following) lease(version string) {
	for _, config := range []string{"p", "user"} {
		f.set("ref-"+config, version, config+"-"+version)
		f.stub.mu.Lock()
		f.values["ref-"+config].SecretExpireTime = timestamppb.New(time.Now().Add(testLease))
		f.stub.mu.Unlock()
	}
}

func generatedNotice(config string, state secretbrokerv1.Notice_State, version string) *secretbrokerv1.Notice {
	return &secretbrokerv1.Notice{Config: config, State: state, Version: version, Generated: true, SecretExpireTime: timestamppb.New(time.Now().Add(testLease))}
}

// withCredential tests with a Follower of a credential, which the stream has told of.
func withCredential(t *testing.T, test func(t *testing.T, f *following, s *stubStream)) {
	withFollower(t, func(t *testing.T, f *following) {
		f.lease("L1")
		s, _ := f.latest()
		s.tell(true, generatedNotice("p", changed, "L1"), generatedNotice("user", changed, "L1"))
		f.want(t, "p", "p-L1")
		if n, last := f.calls(); n != 1 || last.GetNotReadBefore() != nil {
			t.Errorf("%d calls, last %v", n, last)
		}
		_ = f.reported.take()
		test(t, f, s)
	}, "user")
}

// A credential is resolved in the last third of its validity, also if the stream is of a
// replica that has another one. One that was renewed is no change, and the parts of another
// one change together.
func TestFollowGenerated(t *testing.T) {
	withCredential(t, func(t *testing.T, f *following, _ *stubStream) {
		time.Sleep(testLease*2/3 - time.Second)
		if n, _ := f.calls(); n != 0 {
			t.Errorf("%d calls in the first two thirds", n)
		}
		f.lease("L1") // renewed
		renewed := time.Now()
		time.Sleep(2 * time.Second)
		if n, last := f.calls(); n != 1 || len(last.GetConfigs()) != 2 || last.GetNotReadBefore() != nil {
			t.Errorf("%d calls, last %v", n, last)
		}
		v, err := f.Get("db", "p")
		if err != nil || !v.SecretExpireTime.Equal(renewed.Add(testLease)) {
			t.Errorf("the value ends at %v, %v", v.SecretExpireTime, err)
		}
		wantLines(t, f.reported.take())
		// The broker is away, and comes back before the end.
		f.fail(errAway)
		time.Sleep(testLease*5/6 - 10*time.Second)
		if n, _ := f.calls(); n == 0 {
			t.Error("no calls")
		}
		f.fail(nil)
		f.lease("L2")
		time.Sleep(shortRetry)
		synctest.Wait()
		if left := time.Until(v.SecretExpireTime); left < 0 {
			t.Fatalf("the credential ended %s ago", -left)
		}
		wantLines(t, f.reported.take(), "db/p p-L2", "db/user user-L2")
		f.wantReason(t, "")
	})
}

// EXPIRING lets the Follower resolve, again until it has another credential or another end.
func TestFollowGeneratedExpiring(t *testing.T) {
	withCredential(t, func(t *testing.T, f *following, s *stubStream) {
		time.Sleep(testLease / 3) // a broker with a longer watch.expiry_lead
		s.tell(false, generatedNotice("p", expiring, "L1"), generatedNotice("user", expiring, "L1"))
		synctest.Wait()
		if n, last := f.calls(); n != 1 || len(last.GetConfigs()) != 2 {
			t.Errorf("%d calls, last %v", n, last)
		}
		time.Sleep(testLease*2/3 - 30*time.Second)
		if n, _ := f.calls(); n < 3 || n > 20 {
			t.Errorf("%d calls in the last third", n)
		}
		f.lease("L2")
		s.tell(false, generatedNotice("p", changed, "L2"), generatedNotice("user", changed, "L2"))
		wantLines(t, f.reported.take(), "db/p p-L2", "db/user user-L2")
	})
}

// A notice that comes during the call of Resolve that caused it is not lost.
func TestFollowGeneratedRefreshed(t *testing.T) {
	withCredential(t, func(t *testing.T, f *following, s *stubStream) {
		f.stub.mu.Lock()
		f.answered = func() { // the broker answers with the old one, and reads another one
			f.lease("L2")
			s.tell(false, generatedNotice("p", changed, "L2"), generatedNotice("user", changed, "L2"))
			time.Sleep(time.Second)
		}
		f.stub.mu.Unlock()
		s.tell(false, generatedNotice("p", expiring, "L1"), generatedNotice("user", expiring, "L1"))
		time.Sleep(2 * time.Second)
		wantLines(t, f.reported.take(), "db/p p-L2", "db/user user-L2")
	})
}

// The stream of another replica tells of its own credential. The Follower keeps the one that
// it has.
func TestFollowGeneratedElsewhere(t *testing.T) {
	withCredential(t, func(t *testing.T, f *following, s *stubStream) {
		s.tell(false, generatedNotice("p", changed, "W1"), generatedNotice("user", changed, "W1"))
		f.want(t, "p", "p-L1")
		if n, last := f.calls(); n != 1 || len(last.GetConfigs()) != 2 || last.GetNotReadBefore() != nil {
			t.Errorf("%d calls, last %v", n, last)
		}
		time.Sleep(testLease / 2)
		if n, _ := f.calls(); n != 0 {
			t.Errorf("%d calls", n)
		}
		f.wantReason(t, "")
		// A reason why the other replica has none does not end the own one.
		s.tell(false, problemOf("p", unreadable, ReasonStoreUnavailable), problemOf("user", unreadable, ReasonStoreUnavailable))
		f.lease("L3")
		time.Sleep(testLease / 4)
		wantLines(t, f.reported.take(), "db/p p-L3", "db/user user-L3")
		s.tell(false, problemOf("p", denied, ReasonAccessDenied))
		f.want(t, "p", "ACCESS_DENIED")
		f.want(t, "user", "user-L3")
	})
}

// The clock of the program may be wrong.
func TestFollowGeneratedClock(t *testing.T) {
	withCredential(t, func(t *testing.T, f *following, s *stubStream) {
		for name, ahead := range map[string]time.Duration{"ahead": -2 * testLease, "behind": 2 * testLease} {
			f.lease("L1")
			f.stub.mu.Lock()
			for _, v := range f.values { // the broker's clock
				v.FetchTime, v.SecretExpireTime = timestamppb.New(v.GetFetchTime().AsTime().Add(ahead)), timestamppb.New(v.GetSecretExpireTime().AsTime().Add(ahead))
			}
			f.stub.mu.Unlock()
			s.tell(false, generatedNotice("p", expiring, "L1"), generatedNotice("user", expiring, "L1"))
			synctest.Wait()
			_, _ = f.calls()
			time.Sleep(testLease * 3 / 4)
			if n, _ := f.calls(); n < 1 || n > int(testLease/minPoll) {
				t.Errorf("%s: %d calls", name, n)
			}
		}
	})
}

// Watch tells that an end has moved, once for each end, also over streams.
func TestWatchEndMoves(t *testing.T) {
	withCredential(t, func(t *testing.T, f *following, _ *stubStream) {
		ctx, cancel := context.WithCancel(t.Context())
		r, wait := f.read(ctx, watchOf("p"))
		defer wait()
		defer cancel()
		s, _ := f.latest()
		s.tell(true, generatedNotice("p", current, "L1"))
		last := generatedNotice("p", expiring, "L1")
		s.tell(false, last)
		wantLines(t, r.take(), "p CURRENT L1", "complete", "p EXPIRING L1")
		s.end(errAway, 0)
		time.Sleep(time.Minute)
		s, _ = f.latest()
		same := generatedNotice("p", current, "L1")
		same.SecretExpireTime = last.GetSecretExpireTime()
		s.tell(false, same)
		s.tell(true, last)
		wantLines(t, r.take(), "interrupted", "complete")
		s.tell(false, generatedNotice("p", current, "L1"))
		s.tell(false, generatedNotice("p", expiring, "L1"))
		wantLines(t, r.take(), "p CURRENT L1", "p EXPIRING L1")
	})
}
