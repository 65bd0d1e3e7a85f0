//go:build syncdelay

package audit

import (
	"fmt"
	"os"
	"syscall"
	"time"
)

// syncDelay is added to the duration of every fsync of the log, to measure how the broker
// behaves on a slower disk. It exists only in builds with the tag syncdelay: no setting and
// no environment variable enables it in a release.
var syncDelay = func() time.Duration {
	text := os.Getenv("SECRETBROKER_AUDIT_SYNC_DELAY")
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		panic(fmt.Sprintf("SECRETBROKER_AUDIT_SYNC_DELAY=%q: expected a duration such as 5ms", text)) // this build is only for measurements
	}
	return d
}()

// delaySync blocks its thread in a system call, as fsync does. time.Sleep would
// release the processor at once, which fsync does not.
func delaySync() {
	for left := syscall.NsecToTimespec(int64(syncDelay)); left.Nano() > 0; {
		var rest syscall.Timespec
		if syscall.Nanosleep(&left, &rest) == nil {
			return
		}
		left = rest // a signal interrupted it
	}
}
