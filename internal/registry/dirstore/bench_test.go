package dirstore

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider/kinds"
	"github.com/secretbroker/secretbroker/internal/trust/trusttest"
)

// many makes a directory of n integrations, each with its own client secret, a shared CA
// file and ten grants.
func many(b *testing.B, n int) (dir string) {
	b.Helper()
	dir = b.TempDir()
	put := func(name, content string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	put("ca.pem", string(trusttest.NewCA(b, "own").PEM()))
	grants := "  ca_file: ca.pem\ngrants:\n"
	for i := range 10 {
		grants += fmt.Sprintf("  - principals: [spiffe://example.org/team-%d/*]\n    secrets: [team-%d-*]\n", i, i)
	}
	for i := range n {
		name := fmt.Sprintf("i%05d", i)
		put(name+".secret", name)
		put(name+".yaml", withSecret(name, name+".secret")+grants)
	}
	return dir
}

func openMany(b *testing.B, dir string) *Store {
	b.Helper()
	f, err := Open(Config{Kinds: kinds.All(), Dir: dir, Now: func() time.Time { return time.Now().Add(time.Hour) }})
	if err != nil || len(f.Faults()) > 0 {
		b.Fatal(err, f.Faults())
	}
	return f
}

func BenchmarkOpen10k(b *testing.B) {
	dir := many(b, 10_000)
	b.ReportAllocs()
	for b.Loop() {
		openMany(b, dir)
	}
}

// BenchmarkReload10k measures reloads of ten thousand integrations of which none has
// changed, one has changed, or all must be read or have changed. In "one", a file is
// replaced by renaming and its notification is handled; in "one polled", a poll must find
// the change.
func BenchmarkReload10k(b *testing.B) {
	poll := func(f *Store) { f.update(f.poll) }
	b.Run("nothing", func(b *testing.B) { benchmarkReload(b, poll, nil) })
	b.Run("one", func(b *testing.B) {
		benchmarkReload(b, func(f *Store) {
			path := filepath.Join(f.dir, "i05000.yaml")
			f.update(func() error { return f.noticed(map[string]struct{}{path: {}, path + ".tmp": {}}) })
		}, func(dir string, i int) {
			path := filepath.Join(dir, "i05000.yaml")
			replace(b, path, withSecret("i05000", "i05000.secret")+fmt.Sprintf("display_name: %d\n", i))
		})
	})
	b.Run("one polled", func(b *testing.B) {
		benchmarkReload(b, poll, func(dir string, i int) {
			if err := os.WriteFile(filepath.Join(dir, "i05000.secret"), fmt.Append(nil, i), 0o600); err != nil {
				b.Fatal(err)
			}
		})
	})
	b.Run("one replaced and polled", func(b *testing.B) {
		benchmarkReload(b, poll, func(dir string, i int) {
			replace(b, filepath.Join(dir, "i05000.secret"), fmt.Sprint(i))
		})
	})
	b.Run("all read", func(b *testing.B) { benchmarkReload(b, (*Store).Reload, nil) })
	b.Run("all", func(b *testing.B) {
		benchmarkReload(b, (*Store).Reload, func(dir string, i int) {
			if err := os.WriteFile(filepath.Join(dir, "ca.pem"), trusttest.NewCA(b, "own").PEM(), 0o600); err != nil {
				b.Fatal(err)
			}
		})
	})
}

func replace(b *testing.B, path, content string) {
	b.Helper()
	if err := os.WriteFile(path+".tmp", []byte(content), 0o600); err != nil {
		b.Fatal(err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		b.Fatal(err)
	}
}

// benchmarkReload measures reload after each change.
func benchmarkReload(b *testing.B, reload func(*Store), change func(dir string, i int)) {
	dir := many(b, 10_000)
	f := openMany(b, dir)
	changed := 0
	f.onChange = func(_, now []*integration.Integration) { changed += len(now) }
	b.ReportAllocs()
	var took time.Duration
	for i := 0; b.Loop(); i++ {
		if change != nil {
			b.StopTimer()
			change(dir, i)
			b.StartTimer()
		}
		before := processorTime()
		reload(f)
		took += processorTime() - before
	}
	b.ReportMetric(float64(took.Microseconds())/float64(b.N)/1000, "cpu-ms/op")
	if (changed > 0) != (change != nil) {
		b.Fatalf("%d integrations have changed", changed)
	}
}

func BenchmarkGet(b *testing.B) {
	dir := many(b, 1000)
	f := openMany(b, dir)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := f.Get("i00500"); err != nil {
				b.Error(err)
			}
		}
	})
}
