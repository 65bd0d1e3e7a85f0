package registry

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// many makes a directory of n integrations, each with a client secret of its
// own, a shared CA file and ten grants.
func many(b *testing.B, n int) (dir string) {
	b.Helper()
	dir = b.TempDir()
	put := func(name, content string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	put("ca.pem", testCA(b))
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

func openMany(b *testing.B, dir string) *Files {
	b.Helper()
	f, err := Open(FilesConfig{Dir: dir, Now: func() time.Time { return time.Now().Add(time.Hour) }})
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

func BenchmarkReload10k(b *testing.B) { benchmarkUpdate(b, (*Files).Reload) }

func BenchmarkPoll10k(b *testing.B) {
	benchmarkUpdate(b, func(f *Files) { f.update(true) })
}

func benchmarkUpdate(b *testing.B, update func(*Files)) {
	for _, one := range []bool{false, true} {
		name := "none changed"
		if one {
			name = "one changed"
		}
		b.Run(name, func(b *testing.B) {
			dir := many(b, 10_000)
			f := openMany(b, dir)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if one {
					if err := os.WriteFile(filepath.Join(dir, "i05000.secret"), fmt.Append(nil, i), 0o600); err != nil {
						b.Fatal(err)
					}
				}
				update(f)
			}
		})
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
