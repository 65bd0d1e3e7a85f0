package devmode

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// listen listens on the embedded Key Vault's address: the wanted one, or the one that the
// integration file already dials.
func (env *Environment) listen(ctx context.Context, want string) (net.Listener, error) {
	dial, err := env.loopbackDials()
	if err != nil {
		return nil, err
	}
	address := vaultAddress(want, dial)
	if !isLoopback(address) {
		return nil, fmt.Errorf("the embedded Key Vault cannot listen on %q: use a loopback address with a port, such as %s", address, DefaultVaultListen)
	}
	dialled := slices.Sorted(maps.Values(dial))
	if len(dialled) > 0 && !slices.Contains(dialled, address) {
		return nil, fmt.Errorf("%s dials %s, but the embedded Key Vault should listen on %s: change azure.dial and azure.authority_host in the file, or set no other address, or delete the file to recreate it",
			env.IntegrationFile, strings.Join(slices.Compact(dialled), " and "), address)
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("the embedded Key Vault's address is in use (taken) or not usable: %w; stop the process that listens on it, or choose another address and delete %s", err, env.IntegrationFile)
	}
	return ln, nil
}

// vaultAddress returns the address to listen on: want, or the address that an integration
// already dials if want does not set the port.
func vaultAddress(want string, dial map[string]string) string {
	if _, port, err := net.SplitHostPort(want); want != "" && (err != nil || port != "0") {
		return want
	}
	if address, ok := dial[sampleVaultHost]; ok {
		return address
	}
	if len(dial) > 0 {
		return dial[slices.Min(slices.Collect(maps.Keys(dial)))]
	}
	if want == "" {
		return DefaultVaultListen
	}
	return want
}

// loopbackDials returns the entries of azure.dial in an existing integration file that can be
// for the embedded Key Vault; others are for real vaults. The broker validates the rest of
// the file.
func (env *Environment) loopbackDials() (map[string]string, error) {
	data, err := os.ReadFile(env.IntegrationFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var file struct {
		Azure struct {
			Dial map[string]string `yaml:"dial"`
		} `yaml:"azure"`
	}
	if err := yaml.Unmarshal(data, &file); err != nil {
		return nil, fmt.Errorf("%s is not valid YAML, or its azure.dial is not a table of addresses; correct the file, or delete it to recreate it", placeOf(env.IntegrationFile, err))
	}
	maps.DeleteFunc(file.Azure.Dial, func(_, address string) bool { return !isLoopback(address) })
	return file.Azure.Dial, nil
}

// placeOf returns the file, and the line near which the parser failed if the parser reported
// it.
func placeOf(file string, err error) string {
	if line := strictyaml.ErrorLine(err); line > 0 {
		return fmt.Sprintf("%s, near line %d,", file, line)
	}
	return file
}

func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return err == nil && (host == "localhost" || net.ParseIP(host).IsLoopback())
}
