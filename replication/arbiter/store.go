package arbiter

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	pb "go.etcd.io/raft/v3/raftpb"
)

// The blob that Persist carries:
//
//	magic "LSAR", version 1
//	the three voters' names, then our own
//	memory, vote floor, target log (see join.go)
//	hard state: term, vote, commit
//	snapshot: index, term, State
//	entries behind it: count, then term and content of each
//	CRC-32C of all that, 4 bytes big endian
const (
	storeMagic   = "LSAR"
	storeVersion = 1
)

// stored is the decoded blob.
type stored struct {
	memory       memory
	floor        uint64
	target       logEnd
	term, vote   uint64
	commit       uint64
	index, sTerm uint64 // of the snapshot
	state        State
	entries      []*pb.Entry
}

func castagnoli(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

func encodeStored(names [3]string, self string, s *stored) []byte {
	b := append([]byte(storeMagic), storeVersion)
	for _, n := range names {
		b = appendBytes(b, []byte(n))
	}
	b = appendBytes(b, []byte(self))
	b = append(b, byte(s.memory))
	for _, v := range []uint64{s.floor, s.target.term, s.target.index, s.term, s.vote, s.commit, s.index, s.sTerm} {
		b = binary.AppendUvarint(b, v)
	}
	b = appendState(b, s.state)
	b = binary.AppendUvarint(b, uint64(len(s.entries)))
	b = appendEntries(b, s.entries)
	return binary.BigEndian.AppendUint32(b, castagnoli(b))
}

func decodeStored(names [3]string, self string, b []byte) (*stored, error) {
	head := len(storeMagic) + 1
	if len(b) < head+4 || string(b[:len(storeMagic)]) != storeMagic {
		return nil, fmt.Errorf("%d bytes that are not an arbiter's state: %w", len(b), ErrStored)
	}
	body, sum := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	if castagnoli(body) != sum {
		return nil, fmt.Errorf("checksum is wrong: %w", ErrStored)
	}
	if v := b[head-1]; v != storeVersion {
		return nil, fmt.Errorf("version %d, this program writes %d: %w", v, storeVersion, ErrStored)
	}
	r := &reader{b: body[head:]}
	for _, n := range append(names[:], self) {
		if got := string(r.bytes(maxName)); !r.bad && got != n {
			return nil, fmt.Errorf("it was written for voter %q where the configuration has %q: %w", got, n, ErrStored)
		}
	}
	s := &stored{memory: memory(r.byte())}
	s.floor, s.target.term, s.target.index = r.num(), r.num(), r.num()
	s.term, s.vote, s.commit = r.num(), r.num(), r.num()
	s.index, s.sTerm = r.num(), r.num()
	s.state = r.state()
	s.entries = r.entries(r.num(), s.index, maxStored)
	if !r.done() || !s.sound() {
		return nil, fmt.Errorf("content contradicts itself: %w", ErrStored)
	}
	return s, nil
}

// sound reports whether raft can start from s.
func (s *stored) sound() bool {
	last := logEnd{s.sTerm, s.index + uint64(len(s.entries))}
	if n := len(s.entries); n > 0 {
		if s.entries[0].GetTerm() < s.sTerm {
			return false
		}
		last.term = s.entries[n-1].GetTerm()
	}
	return s.memory <= whole && s.vote <= 3 && (s.index == 0) == (s.sTerm == 0) &&
		s.commit >= s.index && s.commit <= last.index && last.term <= s.term
}
