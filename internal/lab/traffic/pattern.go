package traffic

import (
	"encoding/binary"
	"fmt"
)

// Pattern is an endless byte sequence in which every position is told by its neighbours: 64-bit
// words that are a mixing function of the seed and the word's index. A byte that is lost, doubled,
// shifted or changed shows at once, at any offset, without the sequence being kept anywhere.
type Pattern uint64

// Directions of a connection have patterns of their own, so that bytes that come back the wrong
// way show too.
func upPattern(seed uint64) Pattern   { return Pattern(mix(seed ^ 0x75702d75702d7570)) }
func downPattern(seed uint64) Pattern { return Pattern(mix(seed ^ 0x646f776e646f776e)) }

// mix is the finaliser of splitmix64.
func mix(z uint64) uint64 {
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb
	return z ^ (z >> 31)
}

// word i of the sequence.
func (p Pattern) word(i uint64) uint64 { return mix(uint64(p) + i*0x9e3779b97f4a7c15) }

// Fill writes the bytes at offset off.
func (p Pattern) Fill(b []byte, off uint64) {
	i := off / 8
	if skip := off % 8; skip != 0 {
		var w [8]byte
		binary.LittleEndian.PutUint64(w[:], p.word(i))
		b = b[copy(b, w[skip:]):]
		i++
	}
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, p.word(i))
		b = b[8:]
		i++
	}
	if len(b) > 0 {
		var w [8]byte
		binary.LittleEndian.PutUint64(w[:], p.word(i))
		copy(b, w[:])
	}
}

// Verify checks that b holds the bytes at offset off. It returns the index of the first wrong
// byte, -1 if there is none.
func (p Pattern) Verify(b []byte, off uint64) int {
	i := off / 8
	done := 0
	if skip := int(off % 8); skip != 0 {
		if bad := p.verifyPart(b[:min(len(b), 8-skip)], i, skip); bad >= 0 {
			return bad
		}
		done = min(len(b), 8-skip)
		i++
	}
	for ; len(b)-done >= 8; done += 8 {
		if binary.LittleEndian.Uint64(b[done:]) != p.word(i) {
			return done + p.verifyPart(b[done:done+8], i, 0)
		}
		i++
	}
	if bad := p.verifyPart(b[done:], i, 0); bad >= 0 {
		return done + bad
	}
	return -1
}

// verifyPart compares less than a word, or finds the wrong byte within one.
func (p Pattern) verifyPart(b []byte, i uint64, skip int) int {
	var w [8]byte
	binary.LittleEndian.PutUint64(w[:], p.word(i))
	for k := range b {
		if b[k] != w[skip+k] {
			return k
		}
	}
	return -1
}

// diagnose tells more about a mismatch than its place: whether the bytes found belong somewhere
// else within reach (bytes), which means loss, duplication or reordering rather than corruption.
func (p Pattern) diagnose(b []byte, off uint64, reach uint64) string {
	if len(b) >= 8 {
		from := off - min(off, reach)
		for o := from; o <= off+reach; o++ {
			if o != off && p.Verify(b[:8], o) < 0 {
				return fmt.Sprintf("wrong bytes at offset %d: they belong to offset %d", off, o)
			}
		}
	}
	return fmt.Sprintf("wrong bytes at offset %d", off)
}
