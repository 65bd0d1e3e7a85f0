package server

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/net/http2"
)

// TestFrames: frames finds the frames that were written, however the bytes are split.
func TestFrames(t *testing.T) {
	var wire bytes.Buffer
	wire.WriteString(http2.ClientPreface)
	w := http2.NewFramer(&wire, nil)
	for _, err := range []error{
		w.WriteSettings(), w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte("abc"), EndHeaders: true}),
		w.WriteData(1, false, nil), w.WriteData(1, true, bytes.Repeat([]byte{9}, 16384)), w.WriteRSTStream(1<<31-1, 8),
		w.WriteContinuation(3, true, []byte{1}), w.WriteHeaders(http2.HeadersFrameParam{StreamID: 5, EndStream: true, EndHeaders: true}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	want := []frame{
		{0, 4, 0, 0}, {3, frameHeaders, 4, 1}, {0, frameData, 0, 1}, {16384, frameData, flagEndStream, 1}, {4, frameReset, 0, 1<<31 - 1},
		{1, frameContinuation, 4, 3}, {0, frameHeaders, 4 | flagEndStream, 5},
	}
	r := rand.New(rand.NewPCG(1, 2))
	for most := range 40 {
		f := frames{skip: prefaceLength}
		var got []frame
		for b := wire.Bytes(); len(b) > 0; {
			piece := b[:min(len(b), 1+r.IntN(most*most+1))]
			b = b[len(piece):]
			for {
				fr, rest, ok := f.next(piece)
				if piece = rest; !ok {
					break
				}
				got = append(got, fr)
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("pieces of up to %d: %v, want %v", most*most+1, got, want)
		}
	}
}
