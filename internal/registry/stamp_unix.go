//go:build linux || darwin

package registry

import "golang.org/x/sys/unix"

// noDirectory makes statAt take a path.
const noDirectory = unix.AT_FDCWD

// openDirectory returns noDirectory for one that cannot be read, which may
// still be looked into.
func openDirectory(path string) (fd int) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return noDirectory
	}
	return fd
}

func closeDirectory(fd int) { _ = unix.Close(fd) } // nothing was written

// statAt follows links. It returns the zero stamp for what cannot be looked at.
func statAt(dir int, name string) stamp {
	var st unix.Stat_t
	for {
		switch err := unix.Fstatat(dir, name, &st, 0); err {
		case nil:
			//nolint:unconvert // the types differ from system to system
			return stamp{device: uint64(st.Dev), inode: st.Ino, size: st.Size, mode: uint32(st.Mode),
				modified: st.Mtim.Nano(), changed: st.Ctim.Nano()}
		case unix.EINTR: // as os.Stat does
		default:
			return stamp{}
		}
	}
}
