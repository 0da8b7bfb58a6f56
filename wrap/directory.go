//go:build amd64

package wrap

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"lockstep/wrap/trace"
)

// A directory's entries come in the order of their names, the same on every server. The descriptor's offset,
// which the program may set and its children share, counts entries.

// Offsets in struct linux_dirent64.
const (
	entrySize = 16 // d_reclen
	entryOff  = 8
	entryName = 19
)

// maxListing is how large a directory may be, in bytes of its entries; a larger one has the kernel's order.
const maxListing = 64 << 20

// listing is a directory that a process is reading.
type listing struct {
	fd      uint64
	entries [][]byte
}

// getdents answers with the next entries.
func (s *supervisor) getdents(t *trace.Task) (next trace.Next, result int64) {
	borrow(t.Proc.PID, int(int32(t.Arg(0))), func(fd int) {
		from, err := unix.Seek(fd, 0, unix.SEEK_CUR)
		if err != nil {
			return
		}
		l := s.listings[t.Proc.PID]
		if from == 0 || l == nil || l.fd != t.Arg(0) {
			if l = list(fd); l == nil {
				return
			}
			l.fd = t.Arg(0)
			s.listings[t.Proc.PID] = l
		}
		b, to, ok := l.from(from, min(t.Arg(2), maxDraw))
		next = trace.Answer
		switch {
		case !ok:
			result = -int64(unix.EINVAL)
		case t.Write(t.Arg(1), b) != nil:
			result = -int64(unix.EFAULT)
		default:
			result = int64(len(b))
			if _, err := unix.Seek(fd, to, unix.SEEK_SET); err != nil {
				result = -int64(unix.EINVAL)
			}
		}
		if result == 0 {
			delete(s.listings, t.Proc.PID)
		}
	})
	return next, result
}

// list reads a directory whole, by a description of its own. It returns nothing for what is not a directory.
func list(fd int) *listing {
	own, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(own)
	l := &listing{}
	chunk := make([]byte, 64<<10)
	for total := 0; ; {
		n, err := unix.Getdents(own, chunk)
		if err != nil {
			return nil
		}
		if n == 0 {
			break
		}
		if total += n; total > maxListing {
			return nil
		}
		for b := bytes.Clone(chunk[:n]); len(b) > 0; {
			size := binary.LittleEndian.Uint16(b[entrySize:])
			l.entries = append(l.entries, b[:size])
			b = b[size:]
		}
	}
	slices.SortFunc(l.entries, func(a, b []byte) int { return bytes.Compare(name(a), name(b)) })
	for i, e := range l.entries {
		binary.LittleEndian.PutUint64(e[entryOff:], uint64(i+1))
	}
	return l
}

// name of an entry: it ends with a zero.
func name(entry []byte) []byte {
	text, _, _ := bytes.Cut(entry[entryName:], []byte{0})
	return text
}

// from returns the entries from an offset on that fit into size bytes, and the offset behind them. Not ok: there is an
// entry, and it does not fit.
func (l *listing) from(offset int64, size uint64) (b []byte, to int64, ok bool) {
	to = offset
	for ; to < int64(len(l.entries)); to++ {
		e := l.entries[to]
		if uint64(len(b)+len(e)) > size {
			return b, to, len(b) > 0
		}
		b = append(b, e...)
	}
	return b, to, true
}
