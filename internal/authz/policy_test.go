package authz

import (
	"testing"

	"github.com/secretbroker/secretbroker/internal/secret"
)

const (
	prod  = "https://prod.vault.azure.net"
	stage = "https://stage.vault.azure.net"
	other = "https://other.vault.azure.net" // not one of the integration's
)

// A question is a request to a policy and its expected decision.
type question struct {
	who, ref string
	want     Decision
}

// allow expects that grant i allows who to read ref.
func allow(i int, who, ref string) question { return question{who, ref, Decision{Allowed, i}} }

// outside expects that grant i would allow the read if the store were one of the
// integration's.
func outside(i int, who, ref string) question {
	return question{who, ref, Decision{StoreNotAllowed, i}}
}

func deny(who, ref string) question { return question{who, ref, Decision{}} }

func mustPolicy(t testing.TB, stores []string, grants ...Grant) *Policy {
	t.Helper()
	p, err := NewPolicy(secret.KindAzureKeyVault, stores, grants)
	if err != nil {
		t.Fatalf("NewPolicy: %v", err)
	}
	return p
}

func mustRef(t testing.TB, s string) secret.Ref {
	t.Helper()
	ref, err := secret.ParseRef(s)
	if err != nil {
		t.Fatalf("ParseRef(%q): %v", s, err)
	}
	return ref
}

func ask(t *testing.T, p *Policy, questions ...question) {
	t.Helper()
	for _, q := range questions {
		got := p.Decide(Principal(q.who), mustRef(t, q.ref))
		if got.Effect == Denied && q.want.Effect == Denied {
			continue // the grant means nothing
		}
		if got != q.want {
			t.Errorf("Decide(%s, %s) = %v by grant %d, want %v by grant %d",
				q.who, q.ref, got.Effect, got.Grant, q.want.Effect, q.want.Grant)
		}
	}
}

func TestDecideByPrincipal(t *testing.T) {
	const db = prod + "::db"
	for _, tt := range []struct {
		name, principal string
		allowed, denied []string
	}{
		{"a whole SPIFFE ID", "spiffe://example.org/connect/worker-1", []string{"spiffe://example.org/connect/worker-1"}, []string{
			"spiffe://example.org/connect/worker-10", "spiffe://example.org/connect/worker-",
			"spiffe://example.org/connect/worker-1/task", "spiffe://example.org/connect", "spiffe://example.org/Connect/worker-1",
			"spiffe://example.com/connect/worker-1", "dns:example.org",
		}},
		{"a trust domain itself", "spiffe://example.org", []string{"spiffe://example.org"}, []string{
			"spiffe://example.org/connect", "spiffe://example.org.evil.example",
		}},
		{"the rest of one segment", "spiffe://example.org/connect/worker-*", []string{
			"spiffe://example.org/connect/worker-1", "spiffe://example.org/connect/worker-",
		}, []string{
			"spiffe://example.org/connect/worker", "spiffe://example.org/connect/xworker-1",
			"spiffe://example.org/connect/worker-1/task", "spiffe://example.org/worker-1", "spiffe://example.org/x/connect/worker-1",
		}},
		{"one whole segment", "spiffe://example.org/connect/*", []string{"spiffe://example.org/connect/worker-1"}, []string{
			"spiffe://example.org/connect", "spiffe://example.org/connect/worker-1/task", "spiffe://example.org/connect2/worker-1",
		}},
		{"one segment of a trust domain", "spiffe://example.org/*", []string{"spiffe://example.org/connect"}, []string{
			"spiffe://example.org", "spiffe://example.org/connect/worker-1", "spiffe://example.org.evil.example/connect",
		}},
		{"everything below", "spiffe://example.org/connect/**", []string{
			"spiffe://example.org/connect/a", "spiffe://example.org/connect/a/b/c/d",
		}, []string{
			"spiffe://example.org/connect", "spiffe://example.org/connected/a", "spiffe://example.org/x/connect/a",
		}},
		{"a whole trust domain", "spiffe://example.org/**", []string{"spiffe://example.org/a", "spiffe://example.org/a/b"}, []string{
			"spiffe://example.org", "spiffe://example.com/a", "spiffe://example.org.evil.example/a", "dns:example.org",
		}},
		{"a DNS name", "dns:worker-1.example.org", []string{"dns:worker-1.example.org"}, []string{
			"dns:worker-1.example.org.evil.example", "dns:x.worker-1.example.org", "dns:example.org", "spiffe://worker-1.example.org",
		}},
		{"one more label", "dns:*.example.org", []string{"dns:worker-1.example.org"}, []string{
			"dns:example.org", "dns:a.b.example.org", "dns:worker-1.example.org.evil.example", "dns:evilexample.org",
			"spiffe://worker-1.example.org",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := mustPolicy(t, []string{prod}, Grant{Principals: []string{tt.principal}})
			for _, who := range tt.allowed {
				ask(t, p, allow(0, who, db))
			}
			for _, who := range append(tt.denied, "") {
				ask(t, p, deny(who, db))
			}
		})
	}
}

func TestDecideBySecretAndKey(t *testing.T) {
	const who = "spiffe://example.org/worker"
	for _, tt := range []struct {
		name            string
		grant           Grant
		allowed, denied []string
	}{
		{"no narrowing", Grant{}, []string{"anything", "anything#0123456789abcdef0123456789abcdef::key"}, nil},
		{
			"a name", Grant{Secrets: []string{"db"}},
			[]string{"db", "DB::any.key", "db#0123456789abcdef0123456789abcdef"}, []string{"db2", "d"},
		},
		{"a name in another case", Grant{Secrets: []string{"DB-Secret"}}, []string{"db-secret", "Db-Secret"}, nil},
		{"the beginning of a name", Grant{Secrets: []string{"db-*"}}, []string{"db-1", "DB-"}, []string{"db", "xdb-1"}},
		{"any name", Grant{Secrets: []string{"*"}}, []string{"x"}, nil},
		{"several names", Grant{Secrets: []string{"a", "b*"}}, []string{"a", "bb"}, []string{"ab"}},
		{
			"a key, which is never the whole secret", Grant{Keys: []string{"password"}},
			[]string{"db::password"}, []string{"db", "db::Password", "db::password2", "db::password::x"},
		},
		{
			"the beginning of a key", Grant{Keys: []string{"db.*"}},
			[]string{"db::db.password", "db::db."}, []string{"db::DB.password", "db::db", "db"},
		},
		{"any key is still no whole secret", Grant{Keys: []string{"*"}}, []string{"db::x"}, []string{"db"}},
		{ // the Kelvin sign and letters i with another number of dots
			"keys are not folded beyond ASCII either", Grant{Keys: []string{"k", "i", "straße"}},
			[]string{"db::straße"}, []string{"db::STRASSE", "db::\u212a", "db::\u0131", "db::\u0130"},
		},
		{ // the denied one has the same first byte
			"a beginning inside a character", Grant{Keys: []string{"\u00e9*"}}, []string{"db::\u00e9t\u00e9"}, []string{"db::\u00e8"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.grant.Principals = []string{who}
			p := mustPolicy(t, []string{prod}, tt.grant)
			for _, ref := range tt.allowed {
				ask(t, p, allow(0, who, prod+"::"+ref))
			}
			for _, ref := range tt.denied {
				ask(t, p, deny(who, prod+"::"+ref))
			}
		})
	}
}

func TestDecideByStore(t *testing.T) {
	const who = "spiffe://example.org/worker"
	t.Run("every store of the integration", func(t *testing.T) {
		ask(t, mustPolicy(t, []string{prod, stage}, Grant{Principals: []string{who}}),
			allow(0, who, prod+"::db"),
			allow(0, who, stage+"::db"),
			allow(0, who, "https://PROD.vault.azure.net:443/::db"),
			outside(0, who, other+"::db"),
			deny("spiffe://example.org/stranger", other+"::db"), // to whom it looks like any denial
		)
	})
	t.Run("one store", func(t *testing.T) {
		grant := Grant{Principals: []string{who}, Stores: []string{"https://Prod.vault.azure.net/"}}
		ask(t, mustPolicy(t, []string{prod, stage}, grant),
			allow(0, who, prod+"::db"),
			deny(who, stage+"::db"),
			deny(who, other+"::db"), // the grant would not give it there
		)
	})
	t.Run("outside only for what is granted", func(t *testing.T) {
		grant := Grant{Principals: []string{who}, Secrets: []string{"db"}, Keys: []string{"password"}}
		ask(t, mustPolicy(t, []string{prod}, grant),
			outside(0, who, other+"::db::password"),
			deny(who, other+"::db::user"),
			deny(who, other+"::db"),
			deny(who, other+"::app::password"),
		)
	})
	t.Run("no stores", func(t *testing.T) {
		ask(t, mustPolicy(t, nil, Grant{Principals: []string{who}}), outside(0, who, prod+"::db"))
	})
}

// One grant must allow the whole request: parts of different grants do not combine.
func TestDecideByOneGrant(t *testing.T) {
	p := mustPolicy(t, []string{prod, stage},
		Grant{Principals: []string{"spiffe://example.org/connect/**"}, Secrets: []string{"db"}, Keys: []string{"user"}, Stores: []string{prod}},
		Grant{Principals: []string{"spiffe://example.org/connect/worker-*"}, Secrets: []string{"db"}, Keys: []string{"password"}, Stores: []string{stage}},
		Grant{Principals: []string{"spiffe://example.org/connect/worker-1", "dns:worker-1.example.org"}, Secrets: []string{"app-*"}},
		Grant{Principals: []string{"dns:*.example.org"}, Secrets: []string{"app-x", "shared"}, Stores: []string{stage}},
	)
	const worker = "spiffe://example.org/connect/worker-1"
	ask(t, p,
		allow(0, worker, prod+"::db::user"),
		allow(1, worker, stage+"::db::password"),
		allow(2, worker, stage+"::app-x"),
		deny(worker, prod+"::db::password"),
		deny(worker, stage+"::db::user"),
		deny(worker, prod+"::db"),
		deny(worker, prod+"::shared"),
		outside(2, worker, other+"::app-x"),
		deny(worker, other+"::db::user"),

		allow(0, "spiffe://example.org/connect/eu/worker-1", prod+"::db::user"),
		deny("spiffe://example.org/connect/eu/worker-1", stage+"::db::password"),

		allow(2, "dns:worker-1.example.org", prod+"::app-x"),
		allow(3, "dns:worker-1.example.org", stage+"::shared"),
		allow(3, "dns:worker-2.example.org", stage+"::app-x"),
		deny("dns:worker-2.example.org", prod+"::app-x"),
		deny("dns:worker-2.example.org", other+"::app-x"),
	)
}

// A grant that allows the read takes precedence over one that fails because of the
// store, in whichever order they are examined.
func TestDecideAllowedBeatsOutside(t *testing.T) {
	const who = "spiffe://example.org/a/b"
	for _, grants := range [][]Grant{
		{{Principals: []string{who}}, {Principals: []string{"spiffe://example.org/**"}}},
		{{Principals: []string{"spiffe://example.org/**"}}, {Principals: []string{who}, Stores: []string{prod}}},
	} {
		p := mustPolicy(t, []string{prod}, grants...)
		if d := p.Decide(who, mustRef(t, prod+"::db")); d.Effect != Allowed {
			t.Errorf("Decide = %v, want allowed", d.Effect)
		}
		if d := p.Decide(who, mustRef(t, other+"::db")); d.Effect != StoreNotAllowed {
			t.Errorf("Decide for a store outside = %v, want store_not_allowed", d.Effect)
		}
	}
}

// The audit log names the grant that allowed a read. It must be the most specific
// one, by principal and then by secret name, so that the result is deterministic.
func TestDecideNamesTheMostSpecificGrant(t *testing.T) {
	const who = "spiffe://example.org/a/b"
	p := mustPolicy(t, []string{prod},
		Grant{Principals: []string{"spiffe://example.org/**"}},
		Grant{Principals: []string{"spiffe://example.org/a/**"}, Secrets: []string{"db*", "app*"}},
		Grant{Principals: []string{"spiffe://example.org/a/*"}, Secrets: []string{"db*", "web*"}},
		Grant{Principals: []string{who}, Secrets: []string{"d*"}},
		Grant{Principals: []string{who}, Secrets: []string{"db-*"}},
		Grant{Principals: []string{who}, Secrets: []string{"db-1"}},
		Grant{Principals: []string{who}, Secrets: []string{"db-1"}}, // says nothing new
	)
	ask(t, p,
		allow(5, who, prod+"::db-1"),
		allow(4, who, prod+"::db-2"),
		allow(3, who, prod+"::db"),
		allow(2, who, prod+"::web"),
		allow(1, who, prod+"::app"),
		allow(0, who, prod+"::x"),
		outside(5, who, other+"::db-1"),
		outside(0, who, other+"::x"),
	)
}

func TestDecideClosedByDefault(t *testing.T) {
	const who = "spiffe://example.org/worker"
	open := mustPolicy(t, []string{prod}, Grant{Principals: []string{"spiffe://example.org/**"}})
	for name, d := range map[string]Decision{
		"nil policy":         (*Policy)(nil).Decide(who, mustRef(t, prod+"::db")),
		"zero policy":        new(Policy).Decide(who, mustRef(t, prod+"::db")),
		"no grants":          mustPolicy(t, []string{prod}).Decide(who, mustRef(t, prod+"::db")),
		"zero principal":     open.Decide("", mustRef(t, prod+"::db")),
		"bare principal":     open.Decide("worker", mustRef(t, prod+"::db")),
		"principal of no ID": open.Decide("spiffe://", mustRef(t, prod+"::db")),
		"another scheme":     open.Decide("https://example.org/worker", mustRef(t, prod+"::db")),
	} {
		if d != (Decision{}) {
			t.Errorf("%s: %v by grant %d, want denied", name, d.Effect, d.Grant)
		}
	}
	if d := open.Decide(who, secret.Ref{}); d.Effect == Allowed {
		t.Errorf("zero reference: %v", d.Effect)
	}
}

func TestEffectString(t *testing.T) {
	for effect, want := range map[Effect]string{Denied: "denied", StoreNotAllowed: "store_not_allowed", Allowed: "allowed", 99: "denied"} {
		if got := effect.String(); got != want {
			t.Errorf("Effect(%d) = %q, want %q", effect, got, want)
		}
	}
}
