package server

import (
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/watch"
)

// TestWatchGeneratedNotice: the notice of a generated credential has no time that a client
// would pass on, because another replica would create a credential for it.
func TestWatchGeneratedNotice(t *testing.T) {
	n := resolve.WatchNotice{Config: "p", Notice: watch.Notice{State: watch.Changed, Version: "v1", ReadAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour)}}
	if m := noticeOf(&n); m.GetGenerated() || m.GetFetchTime() == nil || m.GetSecretExpireTime() == nil {
		t.Errorf("got %v", m)
	}
	n.Decision.Generated = true
	if m := noticeOf(&n); !m.GetGenerated() || m.GetFetchTime() != nil || m.GetSecretExpireTime() == nil {
		t.Errorf("got %v", m)
	}
	n.State, n.Err = watch.Unreadable, errNotRead
	if m := noticeOf(&n); m.GetGenerated() || m.GetFetchTime() == nil {
		t.Errorf("got %v", m)
	}
}
