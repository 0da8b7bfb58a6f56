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

// maxListings is how many directories may be half read, and maxListing how large they may be together.
const maxListings = 1024

// listing is a directory that is being read: deleting what has been read changes nothing of what is still to come.
type listing struct {
	of      identity
	entries [][]byte
	size    int
	used    uint64 // when, counted
}

// descriptor is a process's.
type descriptor struct {
	pid int
	fd  uint32
}

// listings are those of all processes.
type listings struct {
	of      map[descriptor]*listing
	size    int
	uses    uint64
	evicted bool // a directory has been forgotten that may have been half read
}

// get returns what a descriptor's directory had when it was begun.
func (k *listings) get(d descriptor, directory identity) *listing {
	l := k.of[d]
	if l == nil || l.of != directory { // the number is another descriptor's now
		return nil
	}
	k.uses++
	l.used = k.uses
	return l
}

func (k *listings) drop(d descriptor) {
	if l := k.of[d]; l != nil {
		k.size -= l.size
		delete(k.of, d)
	}
}

// put keeps a listing, and forgets those that have not been used for longest if there is no room.
func (k *listings) put(d descriptor, l *listing) {
	k.drop(d)
	for len(k.of) > 0 && (len(k.of) >= maxListings || k.size+l.size > maxListing) {
		var oldest descriptor
		for other, o := range k.of {
			if former := k.of[oldest]; former == nil || o.used < former.used {
				oldest = other
			}
		}
		k.drop(oldest)
		k.evicted = true
	}
	k.uses++
	l.used = k.uses
	k.size += l.size
	k.of[d] = l
}

// forked gives a child what its parent is reading: it has the same descriptors.
func (k *listings) forked(parent, child int) {
	for d, l := range k.of {
		if d.pid == parent {
			copied := *l
			k.put(descriptor{child, d.fd}, &copied)
		}
	}
}

// ended forgets what a process was reading.
func (k *listings) ended(pid int) {
	for d := range k.of {
		if d.pid == pid {
			k.drop(d)
		}
	}
}

// getdents answers with the next entries.
func (s *supervisor) getdents(t *trace.Task) (next trace.Next, result int64) {
	borrow(t.Proc.PID, int(int32(t.Arg(0))), func(fd int) {
		from, err := unix.Seek(fd, 0, unix.SEEK_CUR)
		var st unix.Stat_t
		if err != nil || unix.Fstat(fd, &st) != nil {
			return
		}
		d := descriptor{t.Proc.PID, uint32(t.Arg(0))}
		l := s.listings.get(d, identity{st.Dev, st.Ino})
		if from == 0 || l == nil {
			if l = list(fd); l == nil {
				return
			}
			if from > 0 && s.listings.evicted {
				s.say("more directories are read at a time than are remembered: what a program deletes meanwhile may hide other entries from it")
			}
			l.of = identity{st.Dev, st.Ino}
			s.listings.put(d, l)
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
			s.listings.drop(d)
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
	for {
		n, err := unix.Getdents(own, chunk)
		if err != nil {
			return nil
		}
		if n == 0 {
			break
		}
		if l.size += n; l.size > maxListing {
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
