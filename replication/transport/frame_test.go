package transport

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"lockstep/replication/wire"
)

// trickle gives out its bytes a few at a time, in steps drawn from pattern.
type trickle struct {
	data, pattern []byte
	i             int
}

func (r *trickle) Read(b []byte) (int, error) {
	if len(r.data) == 0 {
		return 0, io.EOF
	}
	n := len(r.data)
	if len(r.pattern) > 0 {
		n = 1 + int(r.pattern[r.i%len(r.pattern)])
		r.i++
	}
	n = copy(b, r.data[:min(n, len(r.data))])
	r.data = r.data[n:]
	return n, nil
}

func frame(index uint64, size int) []byte {
	f := append(wire.Begin(nil), bytes.Repeat([]byte{byte(index)}, size)...)
	wire.Finish(f, 0, wire.Header{Version: wire.Version, Type: wire.TypeBatch, Epoch: 7, Index: index})
	return f
}

// FuzzFrameReader compares the reader with the obvious slow way to cut a
// stream, however the stream is chopped.
func FuzzFrameReader(f *testing.F) {
	two := append(frame(1, 3), frame(2, 100)...)
	f.Add(two, []byte{0, 7, 200})
	f.Add(two[:len(two)-1], []byte{31})
	f.Add(append(bytes.Clone(two), 1, 2, 3), []byte{})
	f.Add(append(frame(1, 70<<10), frame(2, 0)...), []byte{255})
	f.Add(bytes.Repeat([]byte{0xFF}, 40), []byte{9})
	f.Fuzz(func(t *testing.T, stream, pattern []byte) {
		var want [][]byte
		rest := stream
		reason := ClosedByPeer
		for len(rest) > 0 {
			if len(rest) < wire.HeaderLen {
				reason = ClosedCut
				break
			}
			n, err := wire.FrameLen(rest)
			if errors.Is(err, wire.ErrTooLarge) {
				reason = ClosedTooLong
				break
			}
			if err != nil {
				reason = ClosedBadFrame
				break
			}
			if n > len(rest) {
				reason = ClosedCut
				break
			}
			want, rest = append(want, rest[:n]), rest[n:]
		}
		i := 0
		reader := &FrameReader{R: &trickle{data: stream, pattern: pattern}}
		end := reader.Run(func(got []byte) error {
			if i >= len(want) || !bytes.Equal(got, want[i]) {
				t.Fatalf("frame %d is not what the stream holds", i)
			}
			i++
			return nil
		})
		if i != len(want) || end.Reason != reason {
			t.Fatalf("%d frames, then %v; want %d, then %s", i, end, len(want), reason)
		}
		if limit := max(firstBuffer, 2*len(stream)+wire.HeaderLen); len(reader.buf) > limit {
			t.Fatalf("buffer of %d bytes for a stream of %d", len(reader.buf), len(stream))
		}
	})
}

func TestClaimedLengthCostsNoMemory(t *testing.T) {
	head := frame(1, wire.MaxPayload)[:wire.HeaderLen]
	reader := &FrameReader{R: &trickle{data: head}}
	if end := reader.Run(func([]byte) error { return nil }); end.Reason != ClosedCut {
		t.Error(end)
	}
	if len(reader.buf) != firstBuffer {
		t.Errorf("buffer of %d bytes for a header alone", len(reader.buf))
	}
}

func TestLimitBelowTheWires(t *testing.T) {
	reader := &FrameReader{R: &trickle{data: append(frame(1, 100), frame(2, 101)...)}, Max: wire.HeaderLen + 100}
	n := 0
	if end := reader.Run(func([]byte) error { n++; return nil }); end.Reason != ClosedTooLong || n != 1 {
		t.Errorf("%d frames, then %v", n, end)
	}
}
