//go:build amd64

package wrap

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"lockstep/wrap/determinant"
	"lockstep/wrap/trace"
)

// Offsets in struct stat and struct statx of what depends on the machine: x86-64's stat(2), statx(2).
type facts struct {
	size       int
	mode       int // 16 bits are enough of it
	bytes      int // the file's size
	differs    [][2]int
	dev, inode int
}

var (
	ofStat = facts{144, 24, 48, [][2]int{{0, 16}, {56, 16}, {72, 48}}, 0, 8}
	// st_dev, st_ino; st_blksize, st_blocks; st_atim, st_mtim, st_ctim

	ofStatx = facts{256, 28, 40, [][2]int{{4, 4}, {32, 8}, {48, 8}, {64, 64}, {136, 8}}, 136, 32}
	// stx_blksize; stx_ino; stx_blocks; stx_atime, btime, ctime, mtime; stx_dev_major and minor

	statfsSize = 120
)

// identity is a file of a machine.
type identity struct{ dev, inode uint64 }

// inodes are the identities that files have for the program, where they are not their own: programs tell by it which
// file is which, also when nobody is asked any more. A file whose own identity another one has got has that one's instead. A number
// that a file system has given to another file meanwhile is no concern: the newest agreement counts, and no two files have the same.
type inodes struct{ agreed, own map[identity]identity }

// maxInodes bounds them; further files are known by their own numbers when nobody is asked any more.
const maxInodes = 1 << 20

func (n inodes) set(own, agreed identity) {
	had, other := own, agreed // other is whose it is so far
	if i, ok := n.agreed[own]; ok {
		had = i
	}
	if i, ok := n.own[agreed]; ok {
		other = i
	}
	if had == agreed || len(n.agreed)+2 > maxInodes {
		return
	}
	n.put(own, agreed)
	n.put(other, had)
}

func (n inodes) put(own, agreed identity) {
	if own == agreed {
		delete(n.agreed, own)
		delete(n.own, own)
		return
	}
	n.agreed[own], n.own[agreed] = agreed, own
}

// stat makes what depends on the machine a determinant: numbers, times, blocks. Kind, size, owner and rights of a file are what
// its server has.
func (s *supervisor) stat(t *trace.Task) {
	f, at := ofStat, t.Arg(1)
	switch t.Call() {
	case unix.SYS_NEWFSTATAT:
		at = t.Arg(2)
	case unix.SYS_STATX:
		f, at = ofStatx, t.Arg(4)
	}
	b := make([]byte, f.size)
	if t.Result() != 0 {
		of(t.Proc).places[determinant.File]++
		return
	}
	if t.Read(at, b) != nil {
		return
	}
	switch uint32(binary.LittleEndian.Uint16(b[f.mode:])) & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK:
	default:
		return
	}
	s.agree(of(t.Proc), f, b)
	_ = t.Write(at, b) // the kernel has just written there
}

// agree replaces in b, a result of this machine, what was agreed on for it.
func (s *supervisor) agree(p *process, f facts, b []byte) {
	own := identity{binary.LittleEndian.Uint64(b[f.dev:]), binary.LittleEndian.Uint64(b[f.inode:])}
	// The kind and the size go along, to see that it is the same file of which both servers speak.
	proposal := append([]byte{b[f.mode+1] & 0xf0}, b[f.bytes:f.bytes+8]...)
	if proposal[0]&0xf0 == unix.S_IFDIR>>8 {
		clear(proposal[1:]) // a directory's is its file system's affair
	}
	head := len(proposal)
	if known, ok := s.inodes.agreed[own]; ok {
		known.put(f, b)
	}
	for _, d := range f.differs {
		proposal = append(proposal, b[d[0]:d[0]+d[1]]...)
	}
	got := s.ask(p, determinant.File, proposal)
	if len(got) != len(proposal) || string(got[:head]) != string(proposal[:head]) {
		s.say("%s: the servers do not speak of the same file, or it is not the same on both", p.serves.of)
		return
	}
	got = got[head:]
	for _, d := range f.differs {
		copy(b[d[0]:], got[:d[1]])
		got = got[d[1]:]
	}
	s.inodes.set(own, identity{binary.LittleEndian.Uint64(b[f.dev:]), binary.LittleEndian.Uint64(b[f.inode:])})
}

func (i identity) put(f facts, b []byte) {
	binary.LittleEndian.PutUint64(b[f.dev:], i.dev)
	binary.LittleEndian.PutUint64(b[f.inode:], i.inode)
}

// statfs makes what is said of a file system a determinant, as a whole.
func (s *supervisor) statfs(t *trace.Task) {
	b := make([]byte, statfsSize)
	if t.Result() != 0 {
		of(t.Proc).places[determinant.Volume]++
		return
	}
	if t.Read(t.Arg(1), b) != nil {
		return
	}
	if got := s.ask(of(t.Proc), determinant.Volume, b); len(got) == len(b) {
		_ = t.Write(t.Arg(1), got) // the kernel has just written there
	}
}
