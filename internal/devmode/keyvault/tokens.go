package keyvault

import (
	"crypto/rand"
	"crypto/sha256"
	"sync"
	"time"
)

const (
	// tokenLifetime is the shortest default of Entra.
	tokenLifetime = time.Hour
	// maxTokens limits the memory that clients without a token cache can use.
	maxTokens = 1024
)

// tokens are the valid access tokens, by their hash, so that the duration of a lookup reveals
// nothing about a token. It is safe for concurrent use.
type tokens struct {
	now func() time.Time

	mu      sync.Mutex
	expires map[[sha256.Size]byte]time.Time
	oldest  [][sha256.Size]byte // in the order of issue and therefore of expiry
}

func newTokens(now func() time.Time) *tokens {
	return &tokens{now: now, expires: make(map[[sha256.Size]byte]time.Time)}
}

// issue returns a new token. It removes the oldest one if there are too many.
func (t *tokens) issue() string {
	token := rand.Text() + rand.Text()
	sum := sha256.Sum256([]byte(token))
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.oldest) == maxTokens {
		delete(t.expires, t.oldest[0])
		t.oldest = t.oldest[1:]
	}
	t.expires[sum] = t.now().Add(tokenLifetime)
	t.oldest = append(t.oldest, sum)
	return token
}

// valid reports whether token was issued here and has not expired.
func (t *tokens) valid(token string) bool {
	sum := sha256.Sum256([]byte(token))
	t.mu.Lock()
	defer t.mu.Unlock()
	expires, ok := t.expires[sum]
	return ok && t.now().Before(expires)
}
