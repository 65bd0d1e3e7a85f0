//go:build linux || darwin

package filestamp

import "golang.org/x/sys/unix"

// NoDirectory makes At interpret its name as a path.
const NoDirectory = unix.AT_FDCWD

// OpenDirectory returns NoDirectory for a directory that cannot be read, whose files may
// still be accessible by path.
func OpenDirectory(path string) (fd int) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return NoDirectory
	}
	return fd
}

// CloseDirectory closes the result of OpenDirectory.
func CloseDirectory(fd int) { _ = unix.Close(fd) } // opened for reading only

// At follows links. It returns the zero Stamp if the file's attributes cannot be read.
func At(dir int, name string) Stamp {
	var st unix.Stat_t
	for {
		switch err := unix.Fstatat(dir, name, &st, 0); err {
		case nil:
			//nolint:unconvert // the types differ from system to system
			return Stamp{Device: uint64(st.Dev), Inode: st.Ino, Size: st.Size, Mode: uint32(st.Mode),
				Modified: st.Mtim.Nano(), Changed: st.Ctim.Nano()}
		case unix.EINTR: // as os.Stat does
		default:
			return Stamp{}
		}
	}
}
