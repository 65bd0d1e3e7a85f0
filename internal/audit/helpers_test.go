package audit

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/audit/chain"
)

// Verified is the result of Verify.
type Verified struct {
	Break          string // "" if the log is intact
	Records        int
	First          uint64
	UnchainedBytes int64
}

// Verify calls logread.Verify with the expected heads. Package logread imports this one, so
// only the external test package can import it; its TestMain sets Verify.
var Verify func(ctx context.Context, heads []chain.Head, files []string) (Verified, error)

func verify(t testing.TB, files ...string) Verified {
	t.Helper()
	return verifyTo(t, chain.Head{}, files...)
}

// verifyTo verifies the files and expects the head, unless it is zero.
func verifyTo(t testing.TB, head chain.Head, files ...string) Verified {
	t.Helper()
	var heads []chain.Head
	if head.Seq > 0 {
		heads = append(heads, head)
	}
	v, err := Verify(context.Background(), heads, files)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// verifyText is verifyTo for the content of a log.
func verifyText(t testing.TB, head chain.Head, log string) Verified {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte(log), 0o600); err != nil {
		t.Fatal(err)
	}
	return verifyTo(t, head, path)
}

func testKey(t testing.TB, s string) *chain.Key {
	t.Helper()
	k, err := chain.NewKey([]byte(strings.Repeat(s, 32)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func writeIDs(t testing.TB, l *Log, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if err := l.Write(t.Context(), []Event{{RequestID: id, Outcome: Served}}); err != nil {
			t.Fatal(err)
		}
	}
}

func open(t testing.TB, cfg Config) *Log {
	t.Helper()
	l, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func closeLog(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}
