package storeerror_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/provider/storeerror"
)

func TestAnswered(t *testing.T) {
	err := storeerror.Answered(io.ErrUnexpectedEOF)
	if !errors.Is(err, storeerror.ErrAnswered) || !errors.Is(err, io.ErrUnexpectedEOF) || err.Error() != io.ErrUnexpectedEOF.Error() {
		t.Errorf("%v is not both, with the cause's text", err)
	}
	if !errors.Is(storeerror.Answered(nil), storeerror.ErrAnswered) {
		t.Error("no cause: not ErrAnswered")
	}
}

func TestPlain(t *testing.T) {
	for text, want := range map[string]bool{
		"AccessDeniedException": true, "c0ffee-11": true, "RATE_LIMIT_EXCEEDED": true, strings.Repeat("a", 64): true,
		strings.Repeat("a", 65): false, "two words": false, "a\n": false, `"`: false, "é": false, "<p>": false, "a=b": false, "[": false, "@": false, "`": false, "{": false,
	} {
		if got := storeerror.Plain(text); (got == text) != want || !want && got != "" {
			t.Errorf("Plain(%q) = %q", text, got)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	for header, want := range map[string]time.Duration{
		"": 0, "0": 0, "7": 7 * time.Second, "3600": time.Minute, "-1": 0, "0.5": 0, "99999999999999999999": 0, "soon": 0,
		"Mon, 02 Jan 2006 15:04:05 GMT": 0, "Fri, 31 Dec 9999 23:59:59 GMT": time.Minute,
	} {
		if got := storeerror.RetryAfter(http.Header{"Retry-After": {header}}); got != want {
			t.Errorf("RetryAfter(%q) = %v, want %v", header, got, want)
		}
	}
}
