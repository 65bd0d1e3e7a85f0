//go:build !linux && !darwin

package filestamp

import "os"

// NoDirectory makes At take a path.
const NoDirectory = -1

// OpenDirectory returns NoDirectory: At takes paths alone.
func OpenDirectory(string) (fd int) { return NoDirectory }

// CloseDirectory closes what OpenDirectory returned.
func CloseDirectory(int) {}

// At follows links. It returns the zero Stamp for what cannot be looked at.
func At(_ int, path string) Stamp {
	info, err := os.Stat(path)
	if err != nil {
		return Stamp{}
	}
	return Stamp{Size: info.Size(), Mode: uint32(info.Mode()), Modified: info.ModTime().UnixNano()}
}
