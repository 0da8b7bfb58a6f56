//go:build amd64

package wrap

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"lockstep/wrap/determinant"
	"lockstep/wrap/trace"
)

// One that has no event is given the time while its calls are answered and its children begin (the race detector looks on).
func TestTimeWithoutEvents(t *testing.T) {
	s, err := newSupervisor(Options{Authority: Alone(), Secret: make([]byte, determinant.SecretSize), Messages: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	parent := &trace.Process{}
	p := &process{}
	s.serve(p, s.join(determinant.Connection{Client: netip.MustParseAddrPort("127.0.0.1:1")}), "") // it has started
	s.add(parent, p)
	stop := s.keepTime()
	defer stop()
	until(t, "the time", func() bool {
		child := &trace.Process{}
		s.Forked(parent, child)
		c, _ := s.shown(of(child))
		s.Ended(child, 0)
		return c.Real != 0
	})
}

// decided answers with a file number, while it has one.
type decided struct{ inode uint64 }

func (d *decided) Join(determinant.Connection) (determinant.Instance, error) {
	return determinant.Instance{Number: 1}, nil
}
func (d *decided) Leave(uint64) error { return nil }
func (d *decided) Decide(_ determinant.Name, proposal []byte) ([]byte, error) {
	if d.inode == 0 {
		return nil, errors.New("nobody decides")
	}
	b := append([]byte(nil), proposal...)
	binary.LittleEndian.PutUint64(b[9+ofStat.inode:], d.inode) // behind kind and size
	return b, nil
}

// Two files never have the same number, also when nobody decides any more.
func TestFilesStayDifferent(t *testing.T) {
	d := &decided{}
	s, err := newSupervisor(Options{Authority: d, Secret: make([]byte, determinant.SecretSize), Messages: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	p := &process{}
	s.serve(p, s.join(determinant.Connection{}), "")
	shown := func(own uint64) uint64 {
		b := make([]byte, ofStat.size)
		binary.LittleEndian.PutUint16(b[ofStat.mode:], unix.S_IFREG)
		binary.LittleEndian.PutUint64(b[ofStat.inode:], own)
		s.agree(p, 0, ofStat, b)
		return binary.LittleEndian.Uint64(b[ofStat.inode:])
	}
	for _, agreed := range [][2]uint64{{200, 100}, {300, 200}, {100, 300}, {300, 100}, {400, 400}} {
		if d.inode = agreed[1]; shown(agreed[0]) != agreed[1] {
			t.Errorf("file %d is not known as %d", agreed[0], agreed[1])
		}
	}
	d.inode = 0
	whose := map[uint64]uint64{}
	for _, own := range []uint64{100, 200, 300, 400, 500} {
		if other, twice := whose[shown(own)]; twice {
			t.Errorf("files %d and %d are both %d", own, other, shown(own))
		}
		whose[shown(own)] = own
	}
	if shown(300) != 100 {
		t.Errorf("file 300 is %d, and was agreed on as 100", shown(300))
	}
}

// What is kept of directories is bounded; what was used last stays.
func TestListingsAreBounded(t *testing.T) {
	k := listings{of: map[descriptor]*listing{}}
	for fd := range uint32(maxListings + 10) {
		k.put(descriptor{1, fd}, &listing{size: 10})
		k.get(descriptor{1, 0}, identity{})
	}
	if k.put(descriptor{1, 0}, &listing{size: 7}); len(k.of) != maxListings || k.size != 10*maxListings-3 || !k.evicted {
		t.Errorf("%d listings of %d bytes", len(k.of), k.size)
	}
	if k.get(descriptor{1, 0}, identity{inode: 1}) != nil || k.get(descriptor{1, 0}, identity{}) == nil {
		t.Error("a listing is another directory's, or its own was forgotten")
	}
	k.put(descriptor{2, 0}, &listing{size: maxListing})
	if len(k.of) != 1 || k.size != maxListing {
		t.Errorf("%d listings of %d bytes", len(k.of), k.size)
	}
	k.forked(2, 3)
	k.ended(3)
	if k.ended(2); len(k.of) != 0 || k.size != 0 {
		t.Errorf("%d listings of %d bytes are left", len(k.of), k.size)
	}
}
