package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// grown creates the data for the levels of growth: secrets in files, because these can have
// any size and are fast to read, and integrations for them. Answers come from the cache, so
// the kind of store does not matter.
type grown struct {
	*bed
	binary string
}

// keep configures a cache that never reads a secret a second time.
const keep = "cache: {ttl: 24h, max_bytes: %s}\n"

const (
	oneSecret  = "one"
	connectAll = "  - principals: [spiffe://example.org/connect/*]\n"
)

// path returns a path in the directory of the broker.
func (g *grown) path(name ...string) string {
	return filepath.Join(append([]string{g.world.Env.Dir}, name...)...)
}

// write creates n secrets s0, s1, ... with a password of the given size.
func (g *grown) write(store string, n, size int) error {
	if err := os.MkdirAll(g.path(store), 0o700); err != nil {
		return err
	}
	content := fmt.Appendf(nil, `{"user":%q,"password":%q}`, user, strings.Repeat("x", size))
	for i := range n {
		if err := os.WriteFile(g.path(store, "s"+strconv.Itoa(i)), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// integrate creates a directory with one integration for the store, and returns the path of
// the broker's configuration for it.
func (g *grown) integrate(store, cacheBytes string) (string, error) {
	if err := g.integration(store, store, store, connectAll); err != nil {
		return "", err
	}
	return g.config(store, cacheBytes)
}

func (g *grown) integration(directory, id, store, grants string) error {
	dir := g.path("integrations-" + directory)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	content := fmt.Sprintf("id: %s\nkind: LOCAL_FILE\nlocal: {directories: [%s]}\ngrants:\n%s", id, g.path(store), grants)
	return os.WriteFile(filepath.Join(dir, id+".yaml"), []byte(content), 0o600)
}

func (g *grown) config(name, cacheBytes string) (string, error) {
	return g.world.ConfigFor(name+".yaml", "integrations-"+name+"/", fmt.Sprintf(keep, cacheBytes)+unlimited+`
  max_connections_per_principal: 1000
  max_streams_per_connection: 1000
  max_references: 1000
  max_secrets: 1000`)
}

// request requests the user of the first secret and the passwords of the others.
func (g *grown) request(integration, store string, secrets ...int) *secretbrokerv1.ResolveRequest {
	req := &secretbrokerv1.ResolveRequest{IntegrationId: integration, Connector: "sqlserver-orders-cdc", Configs: make(map[string]string)}
	key := "user"
	for i, s := range secrets {
		req.Configs[configName(i)] = fmt.Sprintf("file://%s::s%d::%s", g.path(store), s, key)
		key = "password"
	}
	return req
}

// level returns a level.
func (g *grown) level(label, config string, connections, inFlight int, floor []string, requests ...*secretbrokerv1.ResolveRequest) (level, error) {
	what, err := resolveCalls(requests...)
	if err != nil {
		return level{}, err
	}
	file, err := g.writeCalls(strings.ReplaceAll(label, " ", ""), what)
	return level{label, floor, config, workload{calls: file, connections: connections, inFlight: inFlight}}, err
}

func (g *grown) configs() (all []level, err error) {
	if err := g.write("configs", 64, len(password)); err != nil {
		return nil, err
	}
	config, err := g.integrate("configs", "64MiB")
	if err != nil {
		return nil, err
	}
	for _, n := range []int{1, 2, 8, 32, 64} {
		secrets := make([]int, n)
		for i := range secrets {
			secrets[i] = i
		}
		l, err := g.level(strconv.Itoa(n), config, 4, 4, []string{"-configs", strconv.Itoa(n)}, g.request("configs", "configs", secrets...))
		if err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	return all, nil
}

func (g *grown) values() (all []level, err error) {
	for _, size := range []struct {
		label string
		bytes int
	}{{"16 B", 16}, {"1 KiB", 1 << 10}, {"16 KiB", 16 << 10}, {"64 KiB", 64 << 10}} {
		store := "value-" + strconv.Itoa(size.bytes)
		if err := g.write(store, 1, size.bytes); err != nil {
			return nil, err
		}
		config, err := g.integrate(store, "64MiB")
		if err != nil {
			return nil, err
		}
		l, err := g.level(size.label, config, 4, 4, []string{"-value-bytes", strconv.Itoa(size.bytes)}, g.request(store, store, 0, 0))
		if err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	return all, nil
}

func (g *grown) grants() (all []level, err error) {
	const most = 10_000 // in one integration: a file has at most 1 MiB
	if err := g.write(oneSecret, 1, len(password)); err != nil {
		return nil, err
	}
	for _, n := range []int{10, 1000, 100_000} {
		name := "grants-" + strconv.Itoa(n)
		var requests []*secretbrokerv1.ResolveRequest
		for rest := n; rest > 0; rest -= most {
			id := name + "-" + strconv.Itoa(len(requests))
			var grants strings.Builder
			for i := range min(rest, most) - 1 {
				fmt.Fprintf(&grants, "  - {principals: [spiffe://example.org/connect/worker-%d], secrets: [s%d]}\n", i, i)
			}
			grants.WriteString("  - {principals: [spiffe://example.org/connect/perf], secrets: [s*]}\n")
			if err := g.integration(name, id, oneSecret, grants.String()); err != nil {
				return nil, err
			}
			requests = append(requests, g.request(id, oneSecret, 0, 0))
		}
		config, err := g.config(name, "64MiB")
		if err != nil {
			return nil, err
		}
		l, err := g.level(strconv.Itoa(n), config, 4, 16, nil, requests...)
		if err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	return all, nil
}

func (g *grown) connections() (all []level, err error) {
	const underWay = 512
	if err := g.write(oneSecret, 1, len(password)); err != nil {
		return nil, err
	}
	config, err := g.integrate(oneSecret, "64MiB")
	if err != nil {
		return nil, err
	}
	for _, n := range []int{1, 4, 64, 512} {
		l, err := g.level(strconv.Itoa(n), config, n, underWay/n, nil, g.request(oneSecret, oneSecret, 0, 0))
		if err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	return all, nil
}

func (g *grown) secrets() (all []level, err error) {
	counts := []int{10, 10_000, 100_000}
	if err := g.write("many", counts[len(counts)-1], len(password)); err != nil {
		return nil, err
	}
	config, err := g.integrate("many", "256MiB")
	if err != nil {
		return nil, err
	}
	for _, n := range counts {
		requests := make([]*secretbrokerv1.ResolveRequest, n)
		for i := range requests {
			requests[i] = g.request("many", "many", i, i)
		}
		l, err := g.level(strconv.Itoa(n), config, 4, 16, nil, requests...)
		if err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	return all, nil
}
