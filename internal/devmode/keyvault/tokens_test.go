package keyvault

import (
	"testing"
	"time"
)

func TestTokensAreBounded(t *testing.T) {
	tokens := newTokens(time.Now)
	first := tokens.issue()
	second := tokens.issue()
	for range maxTokens - 1 {
		tokens.issue()
	}
	if len(tokens.expires) != maxTokens || len(tokens.oldest) != maxTokens {
		t.Errorf("%d tokens in an order of %d, want %d", len(tokens.expires), len(tokens.oldest), maxTokens)
	}
	if tokens.valid(first) {
		t.Error("the oldest token is still valid")
	}
	if !tokens.valid(second) {
		t.Error("the second oldest token is no longer valid")
	}
}
