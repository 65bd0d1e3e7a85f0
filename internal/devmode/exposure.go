package devmode

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// checkReach refuses addresses that other machines can reach: the keys of the throwaway
// certificates are in the folder, and the admin endpoint requires no certificate.
func checkReach(opts Options) error {
	if opts.InsecureListen {
		return nil
	}
	for _, at := range []struct{ flag, address string }{{"--listen", opts.Listen}, {"--admin-listen", opts.AdminListen}} {
		if !isLoopback(at.address) {
			return fmt.Errorf("%s %s can be reached from other machines, for which a development broker is not secure: use a loopback address with a port, such as %s, or add --insecure-listen",
				at.flag, at.address, DefaultListen)
		}
	}
	return nil
}

// checkOwned refuses a folder in which other users can write: they could replace the
// integrations, or create links where Start writes keys. If the folder does not exist,
// checkOwned creates it with access for its owner only.
func checkOwned(dir string) error {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a directory", dir)
	}
	if owner := foreignOwner(info); owner != "" {
		return fmt.Errorf("%s belongs to user %s, who could replace the broker's files: choose a directory of your own", dir, owner)
	}
	if info.Mode().Perm()&0o002 != 0 {
		return fmt.Errorf("every user of this machine can write in %s and replace the broker's files: run chmod o-w %s, or choose another directory", dir, dir)
	}
	return nil
}
