package localfile

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/providertest"
)

func TestValidate(t *testing.T) {
	dir := t.TempDir()
	file, link, empty := filepath.Join(dir, "file"), filepath.Join(dir, "link"), filepath.Join(dir, "empty")
	write(t, file, "x")
	must(t, os.Symlink("/proc/self", link))
	must(t, os.Mkdir(empty, 0o700))
	in := newIntegration(dir, empty, filepath.Join(dir, "none"), file, link)
	settingsOf(in).Environment = []string{"SET", "UNSET"}
	p := open(t, func(name string) (string, bool) { return "", name == "SET" }, in)
	v, ok := p.(provider.Validator)
	if !ok {
		t.Fatal("it is no Validator")
	}
	read := func(path string) string { return "read " + StoreOf(path) }
	want := read(dir) + " ok, " + read(empty) + " ok, " + read(filepath.Join(dir, "none")) + " STORE_NOT_FOUND, " + read(file) + " STORE_UNAVAILABLE, " +
		read(link) + " STORE_ACCESS_DENIED, read env::SET ok, read env::UNSET SECRET_NOT_FOUND"
	if got := providertest.Steps(v.Validate(t.Context())); got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
}
