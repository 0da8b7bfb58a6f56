//go:build amd64

package wrap

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"

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
	p, file := of(t.Proc), s.called(t)
	if t.Result() != 0 {
		p.next(file)
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
	s.agree(p, file, f, b)
	_ = t.Write(at, b) // the kernel has just written there
}

// agree replaces in b, a result of this machine, what was agreed on for it.
func (s *supervisor) agree(p *process, file uint64, f facts, b []byte) {
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
	got := s.decide(p.serves, determinant.Name{Instance: p.serves.Number, Path: p.path, Kind: determinant.File, Position: file, Place: p.next(file)}, proposal)
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

// maxNames bounds the names of files that a process counts by; those of further ones count as one.
const maxNames = 1 << 16

// next is how often a process has asked for a file of that name.
func (p *process) next(file uint64) uint64 {
	if _, ok := p.files[file]; !ok && len(p.files) >= maxNames {
		file = 0
	}
	n := p.files[file]
	p.files[file] = n + 1
	return n
}

// called is what a call that asks for a file names it by: its name without that of its directory, which may be another one on each server. How
// often a process asks for one file may be up to others (a database that another process has made longer); what it is told of the rest does not depend on that.
func (s *supervisor) called(t *trace.Task) uint64 {
	name, fd := "", int32(t.Arg(0))
	switch t.Call() {
	case unix.SYS_STAT, unix.SYS_LSTAT:
		name = text(t, t.Arg(0))
	case unix.SYS_NEWFSTATAT, unix.SYS_STATX:
		name = text(t, t.Arg(1))
	}
	if name == "" {
		name, _ = os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", t.Proc.PID, fd)) // of one that has been closed there is none
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(filepath.Base(name)))
	return h.Sum64()
}

// text is what lies in the program's memory up to a zero, as far as it can be read.
func text(t *trace.Task, at uint64) string {
	const page = 4096
	b := make([]byte, 0, unix.PathMax)
	for len(b) < unix.PathMax {
		n := min(page-int(at%page), unix.PathMax-len(b)) // another page may not be there
		piece := b[len(b) : len(b)+n]
		if t.Read(at, piece) != nil {
			return string(b)
		}
		if i := bytes.IndexByte(piece, 0); i >= 0 {
			return string(b[:len(b)+i])
		}
		b, at = b[:len(b)+n], at+uint64(n)
	}
	return string(b)
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
