package adapter

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrState says that a state is none that this version writes.
var ErrState = errors.New("adapter: not a valid state")

// stateVersion is the first byte of a state of HTTP.
//
//	byte     version
//	byte     flags
//	uvarint  offset after the last request that is whole and answered
//	-- an opaque stream ends here --
//	byte     phase
//	byte     pos
//	uvarint  status*2 + minor
//	uvarint  size
//	uvarint  left
//	-- unless within a header or trailer section it ends here --
//	byte     step
//	byte     kind*2 + masked
//	byte     found
//	uvarint  length
//	byte     n, and n bytes of the token unless n > MaxName
const stateVersion = 1

// Flags of a state.
const (
	stateOpaque = 1 << iota
	stateStray
	stateClosing
	stateInterim
	stateBound
	stateAnswered // the first request after the offset is answered, but was not whole
	stateFlags    = 1<<iota - 1
)

// State implements Adapter. Of the request stream it holds only an offset: what is
// known of unanswered requests is found again by reading them.
func (h *HTTP) State(dst []byte) []byte {
	r := &h.replies
	flags := byte(0)
	for i, set := range []bool{r.opaque, r.stray, r.closing, r.interim, r.bound, r.answered > 0} {
		if set {
			flags |= 1 << i
		}
	}
	dst = append(dst, stateVersion, flags)
	dst = binary.AppendUvarint(dst, h.reqs.from)
	if r.opaque {
		return dst
	}
	m := &r.msg
	dst = append(dst, byte(m.phase), m.pos)
	dst = binary.AppendUvarint(dst, uint64(m.status)<<1|uint64(m.minor))
	dst = binary.AppendUvarint(dst, uint64(m.size))
	dst = binary.AppendUvarint(dst, m.left)
	if m.phase != phaseFields && m.phase != phaseTrailer {
		return dst
	}
	f := &m.fields
	masked := byte(0)
	if f.masked {
		masked = 1
	}
	dst = append(dst, byte(f.step), byte(f.kind)<<1|masked, byte(f.found))
	dst = binary.AppendUvarint(dst, f.length)
	dst = append(dst, f.n)
	if f.n <= MaxName {
		dst = append(dst, f.token[:f.n]...)
	}
	return dst
}

// Restore implements Adapter.
func (h *HTTP) Restore(state []byte, at uint64) error {
	*h = HTTP{mask: h.mask, replies: newReplies()}
	if err := h.restore(state, at); err != nil {
		*h = HTTP{mask: h.mask, replies: newReplies()}
		return fmt.Errorf("restore an http connection: %w", err)
	}
	return nil
}

func (h *HTTP) restore(state []byte, at uint64) error {
	if len(state) == 0 || len(state) > MaxState {
		return fmt.Errorf("%w: %d bytes", ErrState, len(state))
	}
	if state[0] != stateVersion {
		return fmt.Errorf("%w: version %d, this one knows %d", ErrState, state[0], stateVersion)
	}
	in := stateReader{rest: state[1:]}
	h.read(&in)
	// What is written again must be the same: nothing missing, too much, out of
	// range or in another form.
	if in.short || !h.replies.msg.possible() || !bytes.Equal(h.State(nil), state) {
		return fmt.Errorf("%w: %x", ErrState, state)
	}
	if from := h.reqs.from; at > from {
		return fmt.Errorf("%w: requests are needed from offset %d on, there are those from %d", ErrState, from, at)
	}
	h.reqs.next, h.reqs.skip = h.reqs.from, h.reqs.from-at
	h.reqs.opaque = h.replies.opaque
	return nil
}

// read fills h with what the bytes say, right or wrong.
func (h *HTTP) read(in *stateReader) {
	r := &h.replies
	flags := in.byte()
	r.opaque, r.stray, r.closing = flags&stateOpaque != 0, flags&stateStray != 0, flags&stateClosing != 0
	r.interim, r.bound = flags&stateInterim != 0, flags&stateBound != 0
	if flags&stateAnswered != 0 {
		r.answered = 1
	}
	h.reqs.from = in.uvarint()
	if r.opaque {
		in.short = in.short || flags&^stateOpaque != 0
		return
	}
	m := &r.msg
	m.phase, m.pos = phase(in.byte()), in.byte()
	status := in.uvarint()
	m.status, m.minor = uint16(status>>1), uint8(status&1)
	m.size = uint32(in.uvarint())
	m.left = in.uvarint()
	if m.phase != phaseFields && m.phase != phaseTrailer {
		return
	}
	f := &m.fields
	f.step = fieldStep(in.byte())
	kindMasked := in.byte()
	f.kind, f.masked = kind(kindMasked>>1), kindMasked&1 != 0
	f.found = found(in.byte())
	f.length = in.uvarint()
	if f.n = in.byte(); f.n <= MaxName {
		copy(f.token[:], in.bytes(int(f.n)))
	}
}

// possible says whether a response can be in this state, as far as going on from it
// depends on it.
func (m *message) possible() bool {
	f := &m.fields
	switch {
	case m.phase >= phases, m.phase == phaseStartEnd, m.phase == phaseHead,
		m.size > MaxHead, m.pos > maxDigits, m.status > 999, m.left > maxLength:
		return false
	case (m.phase == phaseLength || m.phase == phaseData) != (m.left > 0) && !m.inSizeLine():
		return false // a body without an end, or an end without a body
	case m.left>>(4*maxDigits) != 0 && m.phase != phaseLength:
		return false
	case (m.phase == phaseFields || m.phase == phaseLineEnd) && m.status < 100:
		return false
	}
	return f.step < fieldSteps && f.kind < kinds && f.found <= foundAll && f.n <= MaxName+1 && f.length <= maxLength
}

// inSizeLine says whether a chunk's size is read, or known and not yet used.
func (m *message) inSizeLine() bool {
	switch m.phase {
	case phaseSize, phaseSpace, phaseExt, phaseSizeEnd:
		return true
	}
	return false
}

// stateReader takes a state apart. Reading beyond its end gives zeros and sets short.
type stateReader struct {
	rest  []byte
	short bool
}

func (s *stateReader) bytes(n int) []byte {
	if n > len(s.rest) {
		s.short, s.rest = true, nil
		return nil
	}
	b := s.rest[:n]
	s.rest = s.rest[n:]
	return b
}

func (s *stateReader) byte() byte {
	if b := s.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (s *stateReader) uvarint() uint64 {
	v, n := binary.Uvarint(s.rest)
	if n <= 0 {
		s.short, s.rest = true, nil
		return 0
	}
	s.rest = s.rest[n:]
	return v
}
