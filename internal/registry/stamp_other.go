//go:build !linux && !darwin

package registry

import "os"

const noDirectory = -1

func openDirectory(string) (fd int) { return noDirectory }

func closeDirectory(int) {}

func statAt(_ int, path string) stamp {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}
	}
	return stamp{size: info.Size(), mode: uint32(info.Mode()), modified: info.ModTime().UnixNano()}
}
