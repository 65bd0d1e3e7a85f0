package manage_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/secretbroker/secretbroker/internal/audit"
	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/denial"
	"github.com/secretbroker/secretbroker/internal/manage"
	"github.com/secretbroker/secretbroker/internal/placement"
	"github.com/secretbroker/secretbroker/internal/secret"
)

var leakedWorker = denial.Entry{Subject: denial.Subject{Principal: "spiffe://example.org/connect/worker-1"}, Reason: "leaked"}

// TestDenialRoles: only owners of everything change the list, only they and auditors of
// everything read it, and a refused call causes no work.
func TestDenialRoles(t *testing.T) {
	b := newSampleBench(t)
	for who, may := range map[authz.Principal]struct{ change, read bool }{
		orgOwner: {true, true}, orgAuditor: {false, true}, orgAssigner: {}, "dns:stranger": {}, "": {},
	} {
		_, err := b.Deny(t.Context(), as(who), leakedWorker, manage.WriteOptions{})
		if (err == nil) != may.change || err != nil && reasonOf(err) != secret.ReasonAccessDenied {
			t.Errorf("%q denies: %v", who, err)
		}
		if _, _, err := b.Denials(t.Context(), as(who), 0, ""); (err == nil) != may.read || err != nil && reasonOf(err) != secret.ReasonAccessDenied {
			t.Errorf("%q lists: %v", who, err)
		}
		if err := b.Undeny(t.Context(), as(who), leakedWorker.Subject, manage.WriteOptions{}); (err == nil) != may.change || err != nil && reasonOf(err) != secret.ReasonAccessDenied {
			t.Errorf("%q ends the denial: %v", who, err)
		}
	}
}

// TestDenyAndRecords: a denial is in effect when the call returns, and every call has its
// records.
func TestDenyAndRecords(t *testing.T) {
	b := newBench(t, placement.Config{})
	owner := as(orgOwner)
	b.audit.take(t)
	cert := denial.Certificate{Principal: leakedWorker.Principal}
	if _, err := b.Deny(t.Context(), owner, leakedWorker, manage.WriteOptions{ValidateOnly: true}); err != nil || b.cfg.Denials.Current().Find(cert, now) != nil {
		t.Errorf("validate only: %v", err)
	}
	e, err := b.Deny(t.Context(), owner, leakedWorker, manage.WriteOptions{})
	if err != nil || e.CreatedBy != orgOwner || !e.CreatedAt.Equal(now) || b.cfg.Denials.Current().Find(cert, now) == nil {
		t.Errorf("%+v, %v", e, err)
	}
	if entries, _, err := b.Denials(t.Context(), owner, 0, ""); err != nil || len(entries) != 1 || entries[0] != e {
		t.Errorf("%+v, %v", entries, err)
	}
	if err := b.Undeny(t.Context(), owner, leakedWorker.Subject, manage.WriteOptions{}); err != nil || b.cfg.Denials.Current().Find(cert, now) != nil {
		t.Error(err)
	}
	if err := b.Undeny(t.Context(), owner, leakedWorker.Subject, manage.WriteOptions{}); reasonOf(err) != secret.ReasonDenialNotFound {
		t.Errorf("got %v", err)
	}
	lines, events := b.audit.take(t)
	want := []string{"CreateDenial answered", "CreateDenial attempted", "CreateDenial changed", "ListDenials answered", "DeleteDenial attempted", "DeleteDenial changed", "DeleteDenial failed DENIAL_NOT_FOUND"}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Error(diff)
	}
	if e := events[1]; e.Subject != leakedWorker.Principal || !strings.Contains(string(e.Change.After), `"reason":"leaked"`) || !strings.Contains(e.Note, string(leakedWorker.Principal)) {
		t.Errorf("record %+v", e)
	}
	b.audit.broken = func(audit.Event) bool { return true }
	if _, err := b.Deny(t.Context(), owner, leakedWorker, manage.WriteOptions{}); reasonOf(err) != secret.ReasonAuditUnavailable || b.cfg.Denials.Current().Find(cert, now) != nil {
		t.Errorf("without a record: %v", err)
	}
}

// TestDenyingOneself needs force, however the caller is named, and nothing else does.
func TestDenyingOneself(t *testing.T) {
	b := newBench(t, placement.Config{})
	caller := as(orgOwner)
	caller.CertificateSHA256, caller.CertificateSerial, caller.CertificateIssuer = strings.Repeat("ab", 32), "a1", "CN=clients"
	for _, s := range []denial.Subject{
		{Principal: orgOwner}, {SHA256: strings.ToUpper(caller.CertificateSHA256)}, {Serial: "00:A1", Issuer: caller.CertificateIssuer},
	} {
		if _, err := b.Deny(t.Context(), caller, denial.Entry{Subject: s}, manage.WriteOptions{}); reasonOf(err) != secret.ReasonOwnerLockout {
			t.Errorf("%v: %v", s, err)
		}
		if _, err := b.Deny(t.Context(), caller, denial.Entry{Subject: s}, manage.WriteOptions{Force: true}); err != nil {
			t.Errorf("%v, forced: %v", s, err)
		}
	}
	for _, s := range []denial.Subject{{SHA256: strings.Repeat("cd", 32)}, {Serial: "a1", Issuer: "CN=others"}, {Serial: "a2", Issuer: caller.CertificateIssuer}} {
		if _, err := b.Deny(t.Context(), caller, denial.Entry{Subject: s}, manage.WriteOptions{}); err != nil {
			t.Errorf("%v: %v", s, err)
		}
	}
}

func TestInvalidDenials(t *testing.T) {
	b := newBench(t, placement.Config{})
	for name, e := range map[string]denial.Entry{
		"nothing":         {},
		"two":             {Subject: denial.Subject{Principal: "dns:a", SHA256: strings.Repeat("ab", 32)}},
		"pattern":         {Subject: denial.Subject{Principal: "spiffe://example.org/connect/*"}},
		"short":           {Subject: denial.Subject{SHA256: "abcd"}},
		"serial alone":    {Subject: denial.Subject{Serial: "a1"}},
		"issuer alone":    {Subject: denial.Subject{Issuer: "CN=x"}},
		"no hexadecimal":  {Subject: denial.Subject{Serial: "xyz", Issuer: "CN=x"}},
		"two lines":       {Subject: leakedWorker.Subject, Reason: "a\nb"},
		"long reason":     {Subject: leakedWorker.Subject, Reason: strings.Repeat("a", denial.MaxReason+1)},
		"already expired": {Subject: leakedWorker.Subject, ExpiresAt: now},
	} {
		if _, err := b.Deny(t.Context(), as(orgOwner), e, manage.WriteOptions{}); reasonOf(err) != secret.ReasonInvalidRequest {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDenialPages: pages have every entry once, also if file and database have the same one.
func TestDenialPages(t *testing.T) {
	b := newBench(t, placement.Config{})
	var inFile []denial.Entry
	for i := range 5 {
		e := denial.Entry{Subject: denial.Subject{Principal: authz.Principal(fmt.Sprintf("dns:h%d", i))}}
		if _, err := b.Deny(t.Context(), as(orgOwner), e, manage.WriteOptions{}); err != nil {
			t.Fatal(err)
		}
		e.InFile = true
		inFile = append(inFile, e)
	}
	b.cfg.Denials.Put(denial.FromFile, denial.NewList(inFile))
	seen, token := map[string]bool{}, ""
	for range 10 {
		page, next, err := b.Denials(t.Context(), as(orgAuditor), 3, token)
		if err != nil || len(page) > 3 {
			t.Fatal(page, err)
		}
		for _, e := range page {
			seen[fmt.Sprint(e.Principal, e.InFile)] = true
		}
		if token = next; token == "" {
			break
		}
	}
	if len(seen) != 10 || token != "" {
		t.Errorf("pages have %v", seen)
	}
	b.cfg.Denials.Put(denial.FromDatabase, nil)
	if err := b.Undeny(t.Context(), as(orgOwner), inFile[0].Subject, manage.WriteOptions{}); reasonOf(err) != secret.ReasonIntegrationReadOnly {
		t.Errorf("a denial in the file: %v", err)
	}
}

// TestWhoAmI: a caller learns its roles and the number of integrations that it may use, and
// the call is not recorded.
func TestWhoAmI(t *testing.T) {
	b := newSampleBench(t)
	b.audit.take(t)
	for who, want := range map[authz.Principal]manage.Self{
		orgOwner:                                {Roles: []manage.RoleHeld{{Role: authz.ResourceOwner, All: true}}},
		"spiffe://example.org/connect/worker-1": {Usable: 1},
		"dns:stranger":                          {},
		"":                                      {},
	} {
		got, err := b.WhoAmI(as(who))
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%q: %v %s", who, err, diff)
		}
	}
	if lines, _ := b.audit.take(t); len(lines) > 0 {
		t.Errorf("records %v", lines)
	}
}
