package resolve_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/secretbroker/secretbroker/internal/resolve"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// memory grants a number of bytes.
type memory struct {
	left  int
	asked []int
}

func (m *memory) Reserve(n int) bool {
	m.asked = append(m.asked, n)
	if n > m.left {
		return false
	}
	m.left -= n
	return true
}

// TestMemory: the call reserves memory before it returns values and records them as served.
// For whole secrets it reserves the memory of all copies before it makes any.
func TestMemory(t *testing.T) {
	whole := map[string]string{"a": vault + "::plain", "b": vault + "::plain", "c": vault + "::plain"}
	keyed := map[string]string{"a": vault + "::db-secret::user", "b": vault + "::db-secret::password"}
	plain := len("canary-plain")
	for _, tt := range []struct {
		name    string
		configs map[string]string
		left    int
		asked   []int
		served  bool
	}{
		{"whole", whole, 3 * plain, []int{3 * plain}, true},
		{"whole, too many", whole, 3*plain - 1, []int{3 * plain}, false},
		{"keyed", keyed, 22, []int{7, 15}, true},
		{"keyed, too many", keyed, 21, []int{7, 15}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, m := newBench(t), &memory{left: tt.left}
			res, err := b.Resolve(t.Context(), resolve.Caller{Principal: worker, Memory: m}, resolve.Request{ID: "r", IntegrationID: "cspi", Configs: tt.configs})
			if !slices.Equal(m.asked, tt.asked) {
				t.Errorf("asked for %v, want %v", m.asked, tt.asked)
			}
			if served := strings.Contains(b.audit.String(), `"served"`); served != tt.served {
				t.Errorf("recorded as served: %v", served)
			}
			if tt.served {
				if err != nil {
					t.Fatal(err)
				}
				res.Wipe()
			} else if !strings.Contains(err.Error(), string(secret.ReasonOverloaded)) && !strings.Contains(err.Error(), "memory") {
				t.Errorf("got %v", err)
			}
		})
	}
}
