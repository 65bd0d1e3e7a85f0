package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// cells returns all cells except those whose load depends on results of others.
func (g *grid) cells() ([]cell, error) {
	var all []cell
	for part, build := range map[string]func() ([]cell, error){partLoads: g.loadCells, partConfigs: g.configCells, partSecrets: g.secretCells} {
		if !g.wants(part) {
			continue
		}
		cells, err := build()
		if err != nil {
			return nil, err
		}
		for _, p := range g.placements {
			for _, c := range cells {
				c.placement = p
				all = append(all, c)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b cell) int { return strings.Compare(a.placement.Name+a.part, b.placement.Name+b.part) })
	return all, nil
}

// requestFile writes calls for n secrets in turn, with so many configs each.
func (g *grid) requestFile(store string, n, configs int) (string, error) {
	requests := make([]*secretbrokerv1.ResolveRequest, n)
	for i := range requests {
		secrets := make([]int, configs)
		for c := range secrets {
			if secrets[c] = i; n == 1 && configs > 2 { // each of a secret of its own
				secrets[c] = c
			}
		}
		requests[i] = g.request(store, store, secrets...)
	}
	what, err := resolveCalls(requests...)
	if err != nil {
		return "", err
	}
	return g.writeCalls(fmt.Sprintf("%s-%d-%d", store, n, configs), what)
}

// prepare creates the secrets of a store and the broker's configuration for it.
func (g *grid) prepare(store string, secrets int) (config string, err error) {
	if err := g.write(store, secrets, len(password)); err != nil {
		return "", err
	}
	return g.integrate(store, "64MiB") // the default
}

func (g *grid) loadCells() (cells []cell, err error) {
	config, err := g.prepare(oneSecret, 1)
	if err != nil {
		return nil, err
	}
	none, err := unsynced(config)
	if err != nil {
		return nil, err
	}
	calls, err := g.requestFile(oneSecret, 1, 2)
	if err != nil {
		return nil, err
	}
	servers := []server{{name: serverFloor, command: g.floor()}, {name: serverUnsynced, command: g.broker(g.binary, none)}}
	for _, d := range g.delays {
		servers = append(servers, g.brokerWith(config, d))
	}
	for shape := range strings.SplitSeq(g.options.shapes, ",") {
		w, err := shaped(shape, calls)
		if err != nil {
			return nil, fmt.Errorf("-shapes: %w", err)
		}
		c := cell{part: partLoads, shape: shape}
		for _, s := range servers {
			c.contenders = append(c.contenders, contender{s, w})
		}
		cells = append(cells, c)
	}
	return cells, nil
}

func (g *grid) configCells() ([]cell, error) {
	config, err := g.prepare("configs", manyConfigs)
	if err != nil {
		return nil, err
	}
	calls, err := g.requestFile("configs", 1, manyConfigs)
	if err != nil {
		return nil, err
	}
	const shape = "4x4"
	w, err := shaped(shape, calls)
	return []cell{{part: partConfigs, shape: shape, contenders: []contender{
		{server{name: serverFloor, command: g.floor("-configs", strconv.Itoa(manyConfigs))}, w},
		{g.brokerWith(config, 0), w},
	}}}, err
}

// flushInterval is the interval at which a broker flushes usage, whose cost grows with the
// number of secrets in use: a sample must contain one flush.
const flushInterval = 5 * time.Second

func (g *grid) secretCells() ([]cell, error) {
	config, err := g.prepare("secrets", manySecrets)
	if err != nil {
		return nil, err
	}
	c := cell{part: partSecrets, shape: secretsShape}
	for _, n := range []int{fewSecrets, manySecrets} {
		calls, err := g.requestFile("secrets", n, 2)
		if err != nil {
			return nil, err
		}
		w, err := shaped(c.shape, calls)
		if err != nil {
			return nil, err
		}
		w.least = flushInterval
		floor, broker := server{name: secretsName(serverFloor, n), command: g.floor()}, g.brokerWith(config, 0)
		broker.name = secretsName(serverBroker, n)
		c.contenders = append(c.contenders, contender{floor, w}, contender{broker, w})
	}
	return []cell{c}, nil
}

// secretsName returns the name of a server whose load requests so many secrets.
func secretsName(server string, secrets int) string {
	return fmt.Sprintf("%s, %d secrets", server, secrets)
}

// halves returns the cells that send half of each broker's measured capacity to the broker
// and to the floor.
func (g *grid) halves(cells []cell) (halves []cell) {
	for i := range cells {
		c := &cells[i]
		if c.part != partLoads || c.shape != capacityShape {
			continue
		}
		floor := c.contenders[0]
		for _, who := range c.contenders[2:] {
			_, capacity, _ := quartiles(g.saved.group(c).values(who.name, throughput))
			if capacity == 0 {
				continue
			}
			rate := capacity / 2
			floor.rate, who.rate = &rate, &rate
			halves = append(halves, cell{placement: c.placement, part: partHalf, shape: halfShape(who.name), contenders: []contender{floor, who}})
		}
	}
	return halves
}

// halfShape returns the name of the load of half of a broker's capacity.
func halfShape(broker string) string { return "of " + broker }
