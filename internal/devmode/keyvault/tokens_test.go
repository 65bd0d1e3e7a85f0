package keyvault

import (
	"testing"
	"time"
)

func TestTokensAreBounded(t *testing.T) {
	tokens := newTokens(time.Now)
	first := tokens.issue(resource)
	second := tokens.issue(resource)
	for range maxTokens - 1 {
		tokens.issue(resource)
	}
	if len(tokens.issued) != maxTokens || len(tokens.oldest) != maxTokens {
		t.Errorf("%d tokens in an order of %d, want %d", len(tokens.issued), len(tokens.oldest), maxTokens)
	}
	if tokens.valid(first, resource) {
		t.Error("the oldest token is still valid")
	}
	if !tokens.valid(second, resource) {
		t.Error("the second oldest token is no longer valid")
	}
}
