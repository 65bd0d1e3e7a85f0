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

// listen takes the embedded Key Vault's address: the wanted one, or the one that
// the integration file already dials.
func (env *Environment) listen(ctx context.Context, want string) (net.Listener, error) {
	dial, err := env.loopbackDials()
	if err != nil {
		return nil, err
	}
	address := vaultAddress(want, dial)
	if !isLoopback(address) {
		return nil, fmt.Errorf("the embedded Key Vault cannot listen on %q: give it a loopback address with a port, such as %s", address, DefaultVaultListen)
	}
	dialled := slices.Sorted(maps.Values(dial))
	if len(dialled) > 0 && !slices.Contains(dialled, address) {
		return nil, fmt.Errorf("%s dials %s, but the embedded Key Vault is to listen on %s: change azure.dial and azure.authority_host in the file, or give no other address, or delete the file to have it recreated",
			env.IntegrationFile, strings.Join(slices.Compact(dialled), " and "), address)
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("the embedded Key Vault's address is taken or not usable: %w; stop what listens there, or choose another address and delete %s", err, env.IntegrationFile)
	}
	return ln, nil
}

// vaultAddress chooses where to listen: where want says, unless it leaves the
// port open and an integration dials somewhere already.
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

// loopbackDials returns the entries of azure.dial in an existing integration
// file that can be meant for the embedded Key Vault; others lead to real ones.
// Everything else in the file is for the broker to judge.
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
		return nil, fmt.Errorf("%s is not YAML, or its azure.dial no table of addresses; correct the file, or delete it to have it recreated", placeOf(env.IntegrationFile, err))
	}
	maps.DeleteFunc(file.Azure.Dial, func(_, address string) bool { return !isLoopback(address) })
	return file.Azure.Dial, nil
}

// placeOf returns the file, and the line near which the parser failed if it says
// so.
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
