package config

import "testing"

func TestEventSourceFor(t *testing.T) {
	s := EventSource{Integrations: []string{"one", "team-a-*"}}
	for id, want := range map[string]bool{"one": true, "one-more": false, "team-a-": true, "team-a-x": true, "team-a": false, "team-b-x": false, "": false} {
		if got := s.For(id); got != want {
			t.Errorf("For(%q) is %t", id, got)
		}
	}
	if all := (&EventSource{Integrations: []string{"*"}}); !all.For("any") {
		t.Error("* does not match")
	}
}
