package resolve_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/secretbroker/secretbroker/internal/authz"
	"github.com/secretbroker/secretbroker/internal/integration"
)

// The parts of the worlds of TestIsolation. Many names are easily confused: prefixes of each
// other, and differences only in case, cloud or trust domain.
var (
	isoIDs        = []string{"team", "tea.m", "team-2"}
	isoUnknownIDs = []string{"tea", "none"}
	isoStores     = []string{"https://alpha.vault.azure.net", "https://alpha2.vault.azure.net", "https://alpha.vault.azure.cn"}
	isoNames      = []string{"db", "db-1", "db-10", "app", isoAbsent}
	isoKeys       = []string{"", "user", "user.name", "userx", "a::b", isoBlob, "nope"}
	isoPrincipals = []authz.Principal{
		"spiffe://td/team/w1", "spiffe://td/team/w10", "spiffe://td/team/w1/sub", "spiffe://td/team2/w1", "spiffe://td2/team/w1",
		"dns:w1.td", "dns:x.w1.td", "",
	}
	isoPrincipalPatterns = []string{
		"spiffe://td/team/w1", "spiffe://td/team/w10", "spiffe://td/team2/w1", "spiffe://td2/team/w1", "dns:w1.td", "dns:x.w1.td",
		"spiffe://td/team/*", "spiffe://td/team/w1*", "spiffe://td/team/**", "spiffe://td/**", "dns:*.td",
	}
	isoNamePatterns = []string{"db", "DB-1", "db*", "db-*", "app", "A*", isoAbsent}
	isoKeyPatterns  = []string{"user", "user*", "user.*", "a::b", isoBlob, "*"}
)

const (
	isoCanary = "canary"
	isoAbsent = "gone" // no store has this secret
	isoBlob   = "blob" // the value of this key is base64
)

// plant returns a value that contains its origin, so that the test can check whether the
// caller that got the value may have it.
func plant(in *integration.Integration, store, name, key string, generation int) string {
	return strings.Join([]string{isoCanary, in.ID, in.ReadRevision, store, name, strconv.Itoa(generation), key}, "|")
}

// isoDocument returns a complete secret with a planted value for each key.
func isoDocument(in *integration.Integration, store, name string, generation int) map[string]string {
	doc := make(map[string]string)
	for _, key := range isoKeys[1 : len(isoKeys)-1] {
		doc[key] = plant(in, store, name, key, generation)
	}
	doc[isoBlob] = base64.StdEncoding.EncodeToString([]byte(doc[isoBlob]))
	return doc
}

func isoVersion(generation int) string { return fmt.Sprintf("%032x", generation) }

// ask is one reference, in parts. The oracle uses these parts and not the product's parser.
type ask struct {
	store, name, key string
	generation       int // pinned by version, -1 for the current one
	decode           bool
}

// text returns one of the many equivalent forms of the reference.
func (a ask) text(rng *rand.Rand) string {
	s := shout(rng, a.store) + []string{"", "/", ":443"}[rng.IntN(3)] + "::" + shout(rng, a.name)
	if a.generation >= 0 {
		s += "#" + shout(rng, isoVersion(a.generation))
	}
	if a.decode {
		s += "?decode=base64"
	}
	if a.key != "" {
		s += "::" + a.key
	}
	return s
}

// shout changes some letters to upper case.
func shout(rng *rand.Rand, s string) string {
	if rng.IntN(2) == 0 {
		return s
	}
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' && rng.IntN(2) == 0 {
			return r - 'a' + 'A'
		}
		return r
	}, s)
}

func randomAsk(rng *rand.Rand) ask {
	a := ask{store: pick(rng, isoStores), name: pick(rng, isoNames), key: pick(rng, isoKeys), generation: -1}
	if rng.IntN(4) == 0 {
		a.generation = rng.IntN(12)
	}
	a.decode = a.key == isoBlob && rng.IntN(2) == 0 || rng.IntN(10) == 0
	return a
}

func pick[T any](rng *rand.Rand, from []T) T { return from[rng.IntN(len(from))] }

func some[T any](rng *rand.Rand, from []T, most int) []T {
	list := make([]T, 1+rng.IntN(most))
	for i := range list {
		list[i] = pick(rng, from)
	}
	return list
}

func configsOf(rng *rand.Rand, asks map[string]ask) map[string]string {
	configs := make(map[string]string)
	for _, name := range slices.Sorted(maps.Keys(asks)) {
		configs[name] = asks[name].text(rng)
	}
	return configs
}

// connectorOf returns a complete connector configuration with references, and with others
// that it does not list.
func connectorOf(rng *rand.Rand, id string, configs map[string]string) map[string]string {
	whole := maps.Clone(configs)
	whole["secret.manager"], whole["secret.manager.enabled"] = "AZURE_KEY_VAULT", "true"
	whole["secret.manager.managed.configs"] = strings.Join(slices.Collect(maps.Keys(configs)), ", ")
	if rng.IntN(2) == 0 {
		whole["secret.manager.provider.integration.id"] = id
	}
	for i := range 3 {
		whole[fmt.Sprint("unlisted", i)] = randomAsk(rng).text(rng)
	}
	return whole
}

// wrongValue returns what is wrong with a value that the policy allows, or "".
func wrongValue(in *integration.Integration, a ask, o outcome) (fault string) {
	generation, err := strconv.ParseInt(o.at, 16, 32)
	if err != nil || a.generation >= 0 && int(generation) != a.generation {
		return fmt.Sprintf("version %s", o.at)
	}
	doc := isoDocument(in, a.store, a.name, int(generation))
	want := doc[a.key]
	if a.key == "" {
		whole, _ := json.Marshal(doc) // a map of strings
		want = string(whole)
	}
	if a.decode {
		want = plant(in, a.store, a.name, isoBlob, int(generation)) // no other value is base64
	}
	if got := o.value.Reveal(); got != want {
		return fmt.Sprintf("the value is %q, want %q", got, want)
	}
	return ""
}
