package manage_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/manage"
	"github.com/secretbroker/secretbroker/internal/placement"
	"github.com/secretbroker/secretbroker/internal/registry"
	"github.com/secretbroker/secretbroker/internal/secret"
)

const explained = vault + "::sqlserver-db"

// TestWhoMayExplain: an auditor of all integrations may ask about all, one of a single
// integration about that one. Every other caller gets the same error whether or not the
// integration exists, and the refusal is recorded like those of Get.
func TestWhoMayExplain(t *testing.T) {
	b := newBench(t, placement.Config{})
	b.create(t, "a")
	for _, tt := range []struct {
		who  authz.Principal
		id   string
		want secret.Reason
	}{
		{orgAuditor, "", ""}, {orgAuditor, "a", ""}, {orgAuditor, "none", secret.ReasonInvalidRequest},
		{auditor, "a", ""}, {auditor, "", secret.ReasonAccessDenied}, {auditor, "none", secret.ReasonAccessDenied},
		{worker, "a", secret.ReasonAccessDenied}, {worker, "none", secret.ReasonAccessDenied}, {worker, "", secret.ReasonAccessDenied},
	} {
		b.audit.refused = 0
		answer, err := b.Explain(t.Context(), as(tt.who), manage.Question{Reference: explained, IntegrationID: tt.id, Principal: string(worker)})
		if reasonOf(err) != tt.want {
			t.Errorf("%s about %q: %v", tt.who, tt.id, err)
		}
		lines, events := b.audit.take(t)
		outcome, refused := "Explain answered", 0
		switch tt.want {
		case secret.ReasonAccessDenied:
			outcome, refused = "Explain denied ACCESS_DENIED", 1
			if text := secret.AsError(err).Message; !strings.Contains(text, "only auditors may ask this") || strings.Contains(text, "none") {
				t.Errorf("%s about %q gets %q", tt.who, tt.id, text)
			}
		case secret.ReasonInvalidRequest:
			outcome, refused = "Explain rejected INVALID_REQUEST", 1
		}
		if diff := cmp.Diff([]string{outcome}, lines); diff != "" || b.audit.refused != refused || events[0].IntegrationID != tt.id {
			t.Errorf("%s about %q: %d may be counted, %+v\n%s", tt.who, tt.id, b.audit.refused, events, diff)
		}
		if n := len(answer.Readers) + len(answer.Decisions); (n > 0) != (tt.want == "") {
			t.Errorf("%s about %q: %+v", tt.who, tt.id, answer)
		}
		if tt.want == "" && (events[0].Reference != explained || events[0].Subject != worker) {
			t.Errorf("recorded as %+v", events[0])
		}
	}
	if _, err := b.Explain(t.Context(), as(orgAuditor), manage.Question{Reference: "hunter2"}); reasonOf(err) != secret.ReasonInvalidReference {
		t.Errorf("no reference: %v", err)
	}
	if lines, events := b.audit.take(t); lines[0] != "Explain rejected INVALID_REFERENCE" || events[0].Reference != "" {
		t.Errorf("recorded as %+v", events)
	}
	b.audit.broken = func(audit.Event) bool { return true }
	if answer, err := b.Explain(t.Context(), as(orgAuditor), manage.Question{Reference: explained}); reasonOf(err) != secret.ReasonAuditUnavailable || answer.Readers != nil {
		t.Errorf("without an audit log: %+v, %v", answer, err)
	}
}

// TestExplainChecksPlacement: a grant does not allow a caller with another placement.
func TestExplainChecksPlacement(t *testing.T) {
	b := newBench(t, placement.Config{Same: placement.SameCloud})
	b.create(t, "a")
	answer, err := b.Explain(t.Context(), as(orgAuditor), manage.Question{Reference: explained, Principal: string(worker)})
	if err != nil || len(answer.Decisions) != 1 {
		t.Fatalf("%+v, %v", answer, err)
	}
	if d := answer.Decisions[0]; d.Allowed || d.GrantID != "" || !strings.HasPrefix(d.Explanation, "a grant allows it, but ") {
		t.Errorf("%+v", d)
	}
}

// lost is a registry whose database cannot be reached.
type lost struct{ registry.Store }

func (lost) Get(string) (*integration.Integration, error) { return nil, registry.ErrUnavailable }

// TestNothingIsExplainedWithoutARegistry: Explain fails if the integrations in memory are too
// old for decisions.
func TestNothingIsExplainedWithoutARegistry(t *testing.T) {
	b := newBench(t, placement.Config{})
	b.create(t, "a")
	b.cfg.Store = lost{b.store}
	answer, err := manage.New(b.cfg).Explain(t.Context(), as(orgAuditor), manage.Question{Reference: explained})
	if reasonOf(err) != secret.ReasonRegistryUnavailable || answer.Readers != nil {
		t.Errorf("%+v, %v", answer, err)
	}
	if lines, _ := b.audit.take(t); !cmp.Equal(lines, []string{"Explain failed REGISTRY_UNAVAILABLE"}) {
		t.Errorf("recorded as %q", lines)
	}
}
