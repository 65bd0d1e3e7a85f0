package server

import "encoding/binary"

// The parts of HTTP/2 (RFC 9113) that the server examines.
const (
	prefaceLength     = 24 // sent by the client before its first frame
	frameHeaderLength = 9

	frameData         = 0x0
	frameHeaders      = 0x1
	framePriority     = 0x2
	frameReset        = 0x3
	frameSettings     = 0x4
	framePing         = 0x6
	frameGoAway       = 0x7
	frameContinuation = 0x9

	flagEndStream = 0x1
)

// frame is the header of an HTTP/2 frame.
type frame struct {
	length      int // of the payload, in bytes
	kind, flags byte
	stream      uint32
}

// frames finds the frames in one direction of a connection. It receives the bytes in
// pieces of any length, and parses only frame headers.
type frames struct {
	skip   int // bytes to skip to the next frame
	length int // number of bytes in header
	header [frameHeaderLength]byte
}

// next returns the next frame whose header is complete in b, and the bytes that follow the
// header. It returns false if there is none.
func (f *frames) next(b []byte) (frame, []byte, bool) {
	if n := min(f.skip, len(b)); n > 0 {
		f.skip -= n
		b = b[n:]
	}
	if len(b) == 0 {
		return frame{}, nil, false
	}
	n := copy(f.header[f.length:], b)
	f.length += n
	if f.length < frameHeaderLength {
		return frame{}, nil, false
	}
	f.length = 0
	h := &f.header
	f.skip = int(h[0])<<16 | int(h[1])<<8 | int(h[2])
	return frame{length: f.skip, kind: h[3], flags: h[4], stream: binary.BigEndian.Uint32(h[5:]) &^ (1 << 31)}, b[n:], true
}
