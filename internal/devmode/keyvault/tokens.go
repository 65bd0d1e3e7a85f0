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

	mu     sync.Mutex
	issued map[[sha256.Size]byte]issued
	oldest [][sha256.Size]byte // in the order of issue and therefore of expiry
}

// issued is what is known of a token.
type issued struct {
	resource string
	expires  time.Time
}

func newTokens(now func() time.Time) *tokens {
	return &tokens{now: now, issued: make(map[[sha256.Size]byte]issued)}
}

// issue returns a new token for a resource. It removes the oldest one if there are too many.
func (t *tokens) issue(resource string) string {
	token := rand.Text() + rand.Text()
	sum := sha256.Sum256([]byte(token))
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.oldest) == maxTokens {
		delete(t.issued, t.oldest[0])
		t.oldest = t.oldest[1:]
	}
	t.issued[sum] = issued{resource, t.now().Add(tokenLifetime)}
	t.oldest = append(t.oldest, sum)
	return token
}

// valid reports whether token was issued here for the resource and has not expired.
func (t *tokens) valid(token, resource string) bool {
	sum := sha256.Sum256([]byte(token))
	t.mu.Lock()
	defer t.mu.Unlock()
	held, ok := t.issued[sum]
	return ok && held.resource == resource && t.now().Before(held.expires)
}
