package app

import (
	"context"
	"errors"
	"fmt"
	"iter"
	mathrand "math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/grpc/codes"

	"github.com/secretbroker/secretbroker/client"
	"github.com/secretbroker/secretbroker/internal/asynctest"
	"github.com/secretbroker/secretbroker/internal/devmode"
)

// TestIsolation runs a whole broker with many concurrent callers, each with its own
// certificate, that request everything while the integrations are replaced and the vaults
// fail. No caller gets a value without a grant, and no denied caller can determine whether
// a secret exists.
func TestIsolation(t *testing.T) {
	rng := mathrand.New(mathrand.NewPCG(1, 2))
	var before, after []*isoIntegration
	for _, id := range []string{"team", "team.2", "team-2"} {
		before, after = append(before, randomIntegration(rng, id)), append(after, randomIntegration(rng, id))
	}
	var sample string
	b := newBroker(t, func(env *devmode.Environment) error {
		sample = readFile(env.IntegrationFile)
		issueIsoCertificates(t, env, filepath.Join(env.Dir, "clients.pem"))
		return errors.Join(writeIsoSecrets(env), writeIsoIntegrations(env, sample, before),
			edit(env.ConfigFile, "client_ca_file: ca.pem", "client_ca_file: clients.pem"))
	})
	w := &isoWorld{broker: b, clients: make(map[string]*client.Client)}
	for i, who := range isoCallers {
		w.clients[who] = b.as(t, isoIdentity(b.Environment, i))
	}
	w.known = [][]*isoIntegration{before, after}
	w.measureDenial(t)

	var callers sync.WaitGroup
	for n := range 8 {
		callers.Go(func() { w.call(t, mathrand.New(mathrand.NewPCG(3, uint64(n))), 100) })
	}
	if err := edit(b.SecretsFile, "  beta-vault:\n", "  beta-vault:\n    fault: unavailable\n"); err != nil {
		t.Error(err)
	}
	if err := writeIsoIntegrations(b.Environment, sample, after); err != nil {
		t.Error(err)
	}
	b.hangups <- syscall.SIGHUP
	callers.Wait()
	asynctest.Eventually(t, "every integration has changed", func() bool {
		return strings.Count(b.log.String(), "integration loaded") >= 1+len(before)+len(after)
	})

	w.known = w.known[1:]
	w.quiet(t, rng)
	w.explain(t)
	if w.served.Load() < 50 || w.refused.Load() < 50 {
		t.Errorf("too little was tested: %d values served, %d refused", w.served.Load(), w.refused.Load())
	}
	for where, text := range map[string]string{"log": b.log.String(), "audit": b.auditText(t), "metrics": b.get(t, "/metrics")} {
		if strings.Contains(text, isoCanary) {
			t.Errorf("the %s contains a value", where)
		}
	}
}

type isoWorld struct {
	*broker
	clients map[string]*client.Client
	// known are the integrations that may be in force.
	known           [][]*isoIntegration
	denied          *client.Error // the error of every denied caller
	served, refused atomic.Int32
}

// reasons returns the permitted reasons for a reference, one for each policy that may be
// in force.
func (w *isoWorld) reasons(who, id string, a isoAsk) []client.Reason {
	var all []client.Reason
	for _, integrations := range w.known {
		reason := client.ReasonAccessDenied
		for _, in := range integrations {
			if in.id == id {
				reason = in.reason(who, a)
			}
		}
		all = append(all, reason)
	}
	return all
}

func isDenial(reason client.Reason) bool {
	return reason == client.ReasonAccessDenied || reason == client.ReasonStoreNotAllowed
}

func (w *isoWorld) measureDenial(t *testing.T) {
	_, err := w.clients[isoCallers[0]].Resolve(t.Context(), client.ResolveRequest{IntegrationID: isoUnknownID, Configs: map[string]string{"p": vault + "::nothing"}})
	if !errors.As(err, &w.denied) || w.denied.Reason != client.ReasonAccessDenied {
		t.Fatalf("got %v", err)
	}
}

// call makes random calls and checks the results.
func (w *isoWorld) call(t *testing.T, rng *mathrand.Rand, calls int) {
	for range calls {
		who := isoCallers[rng.IntN(len(isoCallers))]
		id := []string{"team", "team.2", "team-2", "teams", isoUnknownID}[rng.IntN(5)]
		asks, configs := make(map[string]isoAsk), make(map[string]string)
		for i := range 1 + rng.IntN(4) {
			name := fmt.Sprint("c", i)
			asks[name] = isoAsk{isoVaults[rng.IntN(3)], isoNames[rng.IntN(4)], isoKeys[rng.IntN(4)]}
			configs[name] = asks[name].text(rng)
		}
		var maxAge *time.Duration
		if rng.IntN(4) == 0 {
			maxAge = new(time.Duration(rng.IntN(2)) * time.Second)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+rng.IntN(10))*time.Second)
		if rng.IntN(10) == 0 {
			ctx, cancel = context.WithTimeout(t.Context(), time.Duration(rng.IntN(5))*time.Millisecond)
		}
		if rng.IntN(3) == 0 {
			w.check(ctx, t, who, client.CheckRequest{IntegrationID: id, Configs: configs, MaxAge: maxAge}, asks)
		} else {
			w.resolve(ctx, t, who, client.ResolveRequest{IntegrationID: id, Configs: configs, MaxAge: maxAge, AllowPartial: rng.IntN(3) > 0}, asks)
		}
		cancel()
	}
}

func (w *isoWorld) resolve(ctx context.Context, t *testing.T, who string, req client.ResolveRequest, asks map[string]isoAsk) {
	res, err := w.clients[who].Resolve(ctx, req)
	var e *client.Error
	if errors.As(err, &e) {
		if strings.Contains(err.Error(), isoCanary) {
			t.Errorf("an error holds a value: %v", err)
		}
		for _, c := range e.Configs {
			w.judge(t, who, req.IntegrationID, asks[c.Config], c.Reason)
		}
		return
	}
	for name, c := range res.Errors {
		w.judge(t, who, req.IntegrationID, asks[name], c.Reason)
	}
	for name, v := range res.Values {
		w.judge(t, who, req.IntegrationID, asks[name], "")
		if got := v.Reveal(); got != asks[name].value() {
			t.Errorf("%s got %q for %+v", who, got, asks[name])
		}
		w.served.Add(1)
	}
	if len(res.Errors)+len(res.Values) != len(asks) {
		t.Errorf("%d errors and %d values for %v", len(res.Errors), len(res.Values), asks)
	}
}

func (w *isoWorld) check(ctx context.Context, t *testing.T, who string, req client.CheckRequest, asks map[string]isoAsk) {
	res, err := w.clients[who].Check(ctx, req)
	if err != nil {
		return // the time of the call is over
	}
	if text := fmt.Sprintf("%+v", res); strings.Contains(text, isoCanary) {
		t.Errorf("a report holds a value: %s", text)
	}
	for _, r := range res.Reports {
		reason := client.Reason("")
		if r.Err != nil {
			reason = r.Err.Reason
		}
		w.judge(t, who, req.IntegrationID, asks[r.Config], reason)
		if isDenial(reason) && (r.Version != "" || r.JSONKeyFound || !r.FetchTime.IsZero() || r.HasTimeLeft || r.Length != client.LengthUnknown) {
			t.Errorf("a denied caller gets %+v", r)
		}
	}
}

// judge compares one result with the oracle. reason is empty for a value.
func (w *isoWorld) judge(t *testing.T, who, id string, a isoAsk, reason client.Reason) {
	reasons := w.reasons(who, id, a)
	if isDenial(reason) {
		w.refused.Add(1)
		if !slices.Contains(reasons, reason) {
			t.Errorf("%s is told %s of %+v through %s, the policy says %q", who, reason, a, id, reasons)
		}
	} else if !slices.Contains(reasons, "") {
		t.Errorf("%s got %+v through %s (%q), the policy says %q", who, a, id, reason, reasons)
	}
}

// quiet requests references that are denied, cached or not, existing or not, of vaults
// that answer and of one that does not. Every error must be identical, and no vault may
// receive a request.
func (w *isoWorld) quiet(t *testing.T, rng *mathrand.Rand) {
	// Reads continue after their callers have ended.
	asynctest.Eventually(t, "no read is under way", func() bool {
		page := w.get(t, "/metrics")
		return strings.Contains(page, `secretbroker_store_reads_running{kind="AZURE_KEY_VAULT"} 0`) &&
			strings.Contains(page, `secretbroker_store_reads_waiting{kind="AZURE_KEY_VAULT"} 0`)
	})
	reads, n := w.KeyVault.Reads(), 0
	ignore := []cmp.Option{cmpopts.IgnoreFields(client.Error{}, "RequestID"), cmpopts.IgnoreUnexported(client.Error{})}
	for _, who := range isoCallers {
		for _, id := range []string{"team", "team.2", "team-2", "teams", isoUnknownID} {
			for _, name := range append([]string{"absent"}, isoNames...) {
				a := isoAsk{isoVaults[n%3], name, isoKeys[n%4]}
				n++
				if w.reasons(who, id, a)[0] != client.ReasonAccessDenied {
					continue
				}
				_, err := w.clients[who].Resolve(t.Context(), client.ResolveRequest{IntegrationID: id, Configs: map[string]string{"p": a.text(rng)}})
				var e *client.Error
				errors.As(err, &e)
				if diff := cmp.Diff(w.denied, e, ignore...); diff != "" {
					t.Errorf("%s is told of %+v through %s: %s", who, a, id, diff)
				}
			}
		}
	}
	if got := w.KeyVault.Reads(); got != reads {
		t.Errorf("denied callers caused %d reads", got-reads)
	}
}

// firstPage returns the first page of an answer.
func firstPage[P any](pages iter.Seq2[P, error]) (page P, err error) {
	for page, err := range pages {
		return page, err
	}
	return page, errors.New("no page")
}

// explain checks that a caller that is not an auditor learns nothing from any question,
// even about its own rights.
func (w *isoWorld) explain(t *testing.T) {
	questions := []client.ExplainRequest{{}, {Reference: "no reference", IntegrationID: "/", Principal: "/"}}
	for _, id := range []string{"", "team", isoUnknownID} {
		for _, who := range isoCallers {
			questions = append(questions, client.ExplainRequest{Reference: "https://alpha-vault.vault.azure.net::db", IntegrationID: id, Principal: who})
		}
	}
	var first *client.Error
	for _, who := range isoCallers {
		for _, q := range questions {
			answer, err := firstPage(w.clients[who].Explain(t.Context(), q))
			var e *client.Error
			if !errors.As(err, &e) || answer != nil || e.Code != codes.PermissionDenied {
				t.Fatalf("%s asked %+v and got %+v, %v", who, q, answer, err)
			}
			if e.RequestID = ""; first == nil {
				first = e
			}
			if e.Error() != first.Error() {
				t.Errorf("%s asked %+v and is told %v, others %v", who, q, e, first)
			}
		}
	}
	if answer, err := firstPage(w.as(t, w.Auditor).Explain(t.Context(), questions[2])); err != nil || len(answer.Decisions) != 4 {
		t.Errorf("an auditor got %+v, %v", answer, err)
	}
}
