package azurekv

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/secretbroker/secretbroker/internal/provider/providertest"
	"github.com/secretbroker/secretbroker/internal/secret"
)

func TestFetch(t *testing.T) {
	f := newFake(t)
	s := f.open(f.Config(), f.integration())
	before := time.Now()
	for _, text := range []string{
		vaultURL + "::db", vaultURL + "::DB::key", vaultURL + "::db#" + version1, otherURL + "::db",
	} {
		sec := f.Fetch(s, text)
		if got := providertest.Reveal(t, sec); got != canary {
			t.Errorf("%s: value %q", text, got)
		}
		if sec.Version != version1 || !sec.ExpiresAt.IsZero() {
			t.Errorf("%s: version %q, expires %v", text, sec.Version, sec.ExpiresAt)
		}
		if sec.FetchedAt.Before(before) || sec.FetchedAt.After(time.Now()) {
			t.Errorf("%s: fetched at %v", text, sec.FetchedAt)
		}
	}
	if issued, reads := f.counts(); issued != 1 || reads != 4 || f.probes != 2 {
		t.Errorf("%d tokens, %d reads, %d probes; want one token for all vaults, one read each and one probe for each vault", issued, reads, f.probes)
	}
}

func TestFetchConcurrently(t *testing.T) {
	f := newFake(t)
	s := f.open(f.Config(), f.integration())
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			vault := []string{vaultURL, otherURL}[i%2]
			r, err := secret.ParseRef(fmt.Sprintf("%s::db-%d", vault, i))
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := s.Fetch(t.Context(), r); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if issued, _ := f.counts(); issued != 1 {
		t.Errorf("%d token requests, want 1", issued)
	}
}

func TestFetchRefusesBeforeAnyRequest(t *testing.T) {
	f := newFake(t)
	s := f.open(f.Config(), f.integration())
	good := providertest.Ref(t, vaultURL+"::db")
	for name, tc := range map[string]struct {
		change func(*secret.Ref)
		want   secret.Reason
	}{
		"name leaves the collection": {func(r *secret.Ref) { r.Name = ".." }, secret.ReasonInvalidReference},
		"name with a path":           {func(r *secret.Ref) { r.Name = "../keys/k" }, secret.ReasonInvalidReference},
		"name empty":                 {func(r *secret.Ref) { r.Name = "" }, secret.ReasonInvalidReference},
		"name not canonical":         {func(r *secret.Ref) { r.Name = "DB" }, secret.ReasonInvalidReference},
		"name that holds a key":      {func(r *secret.Ref) { r.Name = "db::x" }, secret.ReasonInvalidReference},
		"version not hex":            {func(r *secret.Ref) { r.Version = "../../keys" }, secret.ReasonInvalidReference},
		"version wildcard":           {func(r *secret.Ref) { r.Version = "versions" }, secret.ReasonInvalidReference},
		"store not a vault":          {func(r *secret.Ref) { r.Store = "https://example.org" }, secret.ReasonInvalidReference},
		"kind missing":               {func(r *secret.Ref) { r.Kind = "" }, secret.ReasonInvalidReference},
		"zero":                       {func(r *secret.Ref) { *r = secret.Ref{} }, secret.ReasonInvalidReference},
		"vault not listed":           {func(r *secret.Ref) { r.Store = "https://" + strangers }, secret.ReasonStoreNotAllowed},
	} {
		t.Run(name, func(t *testing.T) {
			r := good
			tc.change(&r)
			_, err := s.Fetch(t.Context(), r)
			f.CheckError(err, tc.want)
		})
	}
	if issued, reads := f.counts(); issued+reads+f.probes+len(f.elsewhere)+len(f.forms) != 0 {
		t.Errorf("requests were sent: %d tokens, %d reads, %d probes", issued, reads, f.probes)
	}
}

func TestAttributes(t *testing.T) {
	now := time.Date(2030, 5, 1, 12, 0, 0, 0, time.UTC)
	unix := func(d time.Duration) int64 { return now.Add(d).Unix() }
	for name, tc := range map[string]struct {
		attributes string
		want       secret.Reason // "" means a value
		expires    time.Time
	}{
		"none":             {"", "", time.Time{}},
		"valid span":       {fmt.Sprintf(`,"nbf":%d,"exp":%d`, unix(-time.Hour), unix(time.Hour)), "", now.Add(time.Hour)},
		"valid from now":   {fmt.Sprintf(`,"nbf":%d`, unix(0)), "", time.Time{}},
		"not yet":          {fmt.Sprintf(`,"nbf":%d`, unix(time.Second)), secret.ReasonSecretNotYetValid, time.Time{}},
		"expires now":      {fmt.Sprintf(`,"exp":%d`, unix(0)), secret.ReasonSecretExpired, time.Time{}},
		"expired":          {fmt.Sprintf(`,"exp":%d`, unix(-time.Hour)), secret.ReasonSecretExpired, time.Time{}},
		"disabled":         {`,"enabled":false`, secret.ReasonSecretDisabled, time.Time{}},
		"disabled expired": {fmt.Sprintf(`,"enabled":false,"exp":%d`, unix(-time.Hour)), secret.ReasonSecretDisabled, time.Time{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			f.vault = func(w http.ResponseWriter, r *http.Request) { f.answer(w, r, tc.attributes, 0) }
			cfg := f.Config()
			cfg.Now = func() time.Time { return now }
			s := f.open(cfg, f.integration())
			if tc.want != "" {
				f.Fails(t.Context(), s, vaultURL+"::db", tc.want)
				return
			}
			if sec := f.Fetch(s, vaultURL+"::db"); !sec.ExpiresAt.Equal(tc.expires) {
				t.Errorf("expires %v, want %v", sec.ExpiresAt, tc.expires)
			}
		})
	}
}

func TestAnswerMustBeAboutTheSecret(t *testing.T) {
	const other = "ffffffffffffffffffffffffffffffff"
	for name, tc := range map[string]struct {
		id  string
		ref string
		ok  bool
	}{
		"as asked":         {vaultURL + "/secrets/db/" + version1, "::db", true},
		"in other case":    {"https://MY-VAULT.vault.azure.net/secrets/DB/" + version1, "::db", true},
		"version in case":  {vaultURL + "/secrets/db/ABCDEF6789abcdef0123456789abcdef", "::db#abcdef6789abcdef0123456789abcdef", true},
		"other vault":      {otherURL + "/secrets/db/" + version1, "::db", false},
		"other name":       {vaultURL + "/secrets/dc/" + version1, "::db", false},
		"other version":    {vaultURL + "/secrets/db/" + other, "::db#" + version1, false},
		"other collection": {vaultURL + "/keys/db/" + version1, "::db", false},
		"no version":       {vaultURL + "/secrets/db", "::db", false},
		"empty version":    {vaultURL + "/secrets/db/", "::db", false},
		"odd version":      {vaultURL + "/secrets/db/a%20b", "::db", false},
		"longer path":      {vaultURL + "/secrets/db/" + version1 + "/x", "::db", false},
		"no path":          {vaultURL, "::db", false},
		"http":             {"http://" + vaultHost + "/secrets/db/" + version1, "::db", false},
		"not a URL":        {"::%zz", "::db", false},
		"empty":            {"", "::db", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			f.vault = func(w http.ResponseWriter, _ *http.Request) {
				providertest.WriteJSON(w, http.StatusOK, fmt.Sprintf(`{"id":%q,"value":%q}`, tc.id, canary))
			}
			s := f.open(f.Config(), f.integration())
			if tc.ok {
				f.Fetch(s, vaultURL+tc.ref)
				return
			}
			f.Fails(t.Context(), s, vaultURL+tc.ref, secret.ReasonStoreUnavailable)
		})
	}
}
