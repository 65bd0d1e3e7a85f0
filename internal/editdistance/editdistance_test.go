package editdistance

import "testing"

func TestBetween(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"", "", 0},
		{"", "abc", 3},
		{"enabled", "enabled", 0},
		{"enabld", "enabled", 1},
		{"enabledd", "enabled", 1},
		{"enubled", "enabled", 1},
		{"enabeld", "enabled", 2},
		{"kitten", "sitting", 3},
	} {
		if got := Between(tt.a, tt.b); got != tt.want {
			t.Errorf("Between(%q, %q) = %d, want %d", tt.a, tt.b, got, tt.want)
		}
		if got := Between(tt.b, tt.a); got != tt.want {
			t.Errorf("Between(%q, %q) = %d, want %d", tt.b, tt.a, got, tt.want)
		}
	}
}
