//go:build !linux && !darwin

package filestamp

import "os"

// NoDirectory makes At interpret its name as a path.
const NoDirectory = -1

// OpenDirectory returns NoDirectory: on this system, At accepts only paths.
func OpenDirectory(string) (fd int) { return NoDirectory }

// CloseDirectory closes the result of OpenDirectory.
func CloseDirectory(int) {}

// At follows links. It returns the zero Stamp if the file's attributes cannot be read.
func At(_ int, path string) Stamp {
	info, err := os.Stat(path)
	if err != nil {
		return Stamp{}
	}
	return Stamp{Size: info.Size(), Mode: uint32(info.Mode()), Modified: info.ModTime().UnixNano()}
}
