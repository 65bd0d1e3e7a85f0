package cache

import (
	"context"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/secretbroker/secretbroker/internal/secret"
)

// inUse returns the heap memory in use, in bytes.
func inUse() float64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // objects with finalizers or in pools need a second collection
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// fill reads n secrets into c and selects the value of key in each of them.
func fill(tb testing.TB, c *Cache, secrets int, document, key string) {
	tb.Helper()
	for i := range secrets {
		req := Request{Key: benchKey, TTL: time.Hour}
		req.Key.Name = "sqlserver-db-secret-" + strconv.Itoa(i)
		res, err := c.Get(context.Background(), req, func(context.Context) (*secret.Secret, error) {
			id := "https://payments-prod.vault.azure.net/secrets/" + req.Key.Name + "/" + strings.Repeat("0123456789abcdef", 2)
			return secret.New(id[len(id)-32:], time.Now(), time.Time{}, []byte(document)), nil
		})
		if err != nil {
			tb.Fatal(err)
		}
		v, err := res.Secret.Select(key)
		if err != nil {
			tb.Fatal(err)
		}
		v.Wipe()
		res.Secret.Release()
	}
}

var documents = []struct{ name, text, key string }{
	{"password of 24 B", "correct horse battery st", ""},
	{"JSON of 112 B", `{"username":"app","password":"correct horse battery staple","host":"db.example.org","port":1433,"database":"pay"}`, "password"},
	{"file of 1 KiB", strings.Repeat("x", 1024), ""},
}

// BenchmarkMemory measures the memory of a cached secret in addition to its payload, for a
// hundred thousand secrets. It is the growth of the whole heap, including the cache, which
// is a third larger than necessary. The metric estimated-B/secret is the size that counts
// towards MaxBytes.
func BenchmarkMemory(b *testing.B) {
	const secrets = 100_000
	for _, doc := range documents {
		b.Run(doc.name, func(b *testing.B) {
			for b.Loop() {
				before := inUse()
				c, err := New(Config{MaxBytes: int64(secrets*4/3) * int64(len(doc.text)+400)})
				if err != nil {
					b.Fatal(err)
				}
				fill(b, c, secrets, doc.text, doc.key)
				took := inUse() - before
				st := c.Stats()
				if st.Entries != secrets {
					b.Fatalf("%d entries are left", st.Entries)
				}
				b.ReportMetric(took/secrets-float64(len(doc.text)), "B/secret")
				b.ReportMetric(float64(st.Bytes)/secrets-float64(len(doc.text)), "estimated-B/secret")
				c.Close()
			}
		})
	}
}

// MaxBytes bounds the memory of the entries. The counters, which have a fixed size, and
// the memory of recent loads, which is temporary, do not count.
func TestBytesAreWhatEntriesTake(t *testing.T) {
	const secrets = 5_000
	for _, doc := range documents {
		c := newCache(t, Config{MinReadInterval: 1})
		before := inUse()
		fill(t, c, secrets, doc.text, doc.key)
		took := inUse() - before
		if r := float64(c.Stats().Bytes) / took; r < 0.8 || r > 1.25 {
			t.Errorf("%s: %d bytes are counted, %.0f are in use", doc.name, c.Stats().Bytes, took)
		}
		c.Close()
	}
}

func TestCountersTakeLittle(t *testing.T) {
	for _, maxBytes := range []int64{1 << 20, 5 << 20, 64 << 20, 65 << 20, 127 << 20, 128 << 20} {
		before := inUse()
		c := newCache(t, Config{MaxBytes: maxBytes})
		took := inUse() - before - 400<<10 // the fixed size of a ristretto cache
		if most := float64(maxBytes) * 0.025; took > most {
			t.Errorf("%d MiB: %.0f bytes of counters, want at most %.0f", maxBytes>>20, took, most)
		}
		c.Close()
	}
}

// There is one entry per secret.
func TestEntryIsSmall(t *testing.T) {
	if size := unsafe.Sizeof(entry{}); size > 64 {
		t.Errorf("an entry takes %d bytes", size)
	}
}
