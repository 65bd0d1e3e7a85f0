package trust

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/secretbroker/secretbroker/internal/keyfile"
)

// maxCRLFiles is the maximum number of files in a directory of CRLs.
const maxCRLFiles = 1000

// SetCRLs replaces the names of the files with CRLs, and of the directory of such files. It
// does nothing if they are the same. Otherwise all of the new files must be valid, and every
// client authority that has a current CRL now, or whose revocations were not checked, must
// have one; otherwise SetCRLs returns an error and changes nothing. A CRL is forgotten with
// its file. With the Workload API, which has no CRLs, SetCRLs does nothing.
func (s *Store) SetCRLs(names []string, dir string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.files == nil || slices.Equal(names, s.files.cfg.CRLFiles) && dir == s.files.cfg.CRLDir {
		return nil
	}
	cfg := s.files.cfg
	cfg.CRLFiles, cfg.CRLDir = slices.Clone(names), dir
	now := s.opts.Now()
	next := newFiles(cfg)
	next.pair, next.authorities = s.files.pair, s.files.authorities
	for _, source := range []string{cfg.CertFile, cfg.ClientCAFile} {
		next.good[source] = s.files.good[source]
	}
	if dir != "" {
		if _, err := next.listCRLs(); err != nil {
			return err
		}
	}
	for _, name := range next.crlFiles() {
		if _, err := next.readCRLs(name, now); err != nil {
			return err
		}
	}
	before := s.current.Load().crls.gaps(next.authorities, now)
	for _, gap := range next.revocation().gaps(next.authorities, now) {
		if !slices.Contains(before, gap) {
			return fmt.Errorf("with the new crl_files and crl_dir, %s", gap.Message)
		}
	}
	s.files, s.read = next, next.read
	s.replace(newSnapshot(next.pair, next.authorities, next.revocation(), time.Time{}))
	s.tell()
	return nil
}

// crlFiles returns the files with CRLs, also those that have vanished from the directory.
func (f *files) crlFiles() []string { return slices.Concat(f.cfg.CRLFiles, f.listed) }

// revocation returns the CRLs in use: the newest of each authority.
func (f *files) revocation() revocation {
	if len(f.cfg.CRLFiles) == 0 && f.cfg.CRLDir == "" {
		return nil
	}
	crls := make(revocation)
	for _, name := range slices.Sorted(maps.Keys(f.crls)) {
		for _, l := range f.crls[name] {
			crls.add(l)
		}
	}
	return crls
}

// listCRLs reads the names of the files in the directory. It reports a change only if files
// have vanished: a new file reports a change when it is read.
func (f *files) listCRLs() (bool, error) {
	entries, err := os.ReadDir(f.cfg.CRLDir)
	if err != nil {
		return false, fmt.Errorf("read the directory of CRLs: %w", err)
	}
	var names []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") { // Kubernetes keeps its own there
			names = append(names, filepath.Join(f.cfg.CRLDir, e.Name()))
		}
	}
	if len(names) > maxCRLFiles {
		return false, fmt.Errorf("the directory of CRLs %s has more than %d files", f.cfg.CRLDir, maxCRLFiles)
	}
	for _, name := range f.listed {
		if !slices.Contains(names, name) && f.crls[name] != nil {
			f.vanished[name] = true
		}
	}
	for _, name := range names {
		delete(f.vanished, name)
	}
	f.listed = names
	return false, nil
}

// forgetVanished forgets the CRLs of files that have vanished from the directory, if they
// are not needed any more, and adds to faults those that are. It reports whether it forgot
// any.
func (f *files) forgetVanished(faults map[string]error) (changed bool) {
	for name := range f.vanished {
		f.crls[name] = slices.DeleteFunc(f.crls[name], func(l *crl) bool {
			return !f.trusts(l.issuer) || f.replaced(name, l)
		})
		if len(f.crls[name]) > 0 {
			faults[name] = fmt.Errorf("the CRL file %s was removed, and no other file has a CRL of %q that is not older; publish one, or restore the file", name, f.crls[name][0].name)
			continue
		}
		delete(f.vanished, name)
		delete(f.crls, name)
		delete(f.good, name)
		changed = true
	}
	return changed
}

func (f *files) trusts(ca issuer) bool {
	for _, cert := range f.authorities {
		if issuerOf(cert) == ca {
			return true
		}
	}
	return false
}

// replaced reports whether another file that still exists has a list of the same authority
// that is not older.
func (f *files) replaced(name string, l *crl) bool {
	for other, lists := range f.crls {
		if other == name || f.vanished[other] {
			continue
		}
		for _, o := range lists {
			if o.issuer == l.issuer && !o.thisUpdate.Before(l.thisUpdate) {
				return true
			}
		}
	}
	return false
}

func (f *files) readCRLs(name string, now time.Time) (bool, error) {
	data, err := keyfile.ReadRegular(name, maxCRL)
	if errors.Is(err, fs.ErrNotExist) && slices.Contains(f.listed, name) {
		return false, nil // removed since the directory was read
	}
	if err != nil {
		return false, fmt.Errorf("read the CRL file: %w", err)
	}
	isNew, taken := f.isNew(name, data)
	if !isNew {
		return false, nil
	}
	lists, err := parseCRLs(data, f.authorities, now)
	// If the file has not been read before, an expired list is better than none: it
	// still names revoked certificates, and all other clients are rejected.
	if err != nil && (f.crls[name] != nil || !errors.Is(err, errStale)) {
		return false, fmt.Errorf("the CRL file %s: %w", name, err)
	}
	taken()
	f.crls[name] = lists
	return true, nil
}
