package determinant

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
)

func counter() func() [16]byte {
	n := uint64(0)
	return func() (b [16]byte) {
		n++
		binary.BigEndian.PutUint64(b[:], n)
		return b
	}
}

func client(port uint16) Connection {
	return Connection{Client: netip.AddrPortFrom(netip.MustParseAddr("203.0.113.100"), port)}
}

func join(t *testing.T, l *Log, server string, c Connection) Instance {
	t.Helper()
	if !l.present[server] {
		l.Arrive(server)
	}
	in, err := l.Join(server, c)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func TestFirstAskedDecides(t *testing.T) {
	l := NewLog(2, counter())
	l.Arrive("a")
	l.Arrive("b")
	in := join(t, l, "a", client(1))
	if got := join(t, l, "b", client(1)); got != in {
		t.Fatalf("b has %v, a %v", got, in)
	}
	for place, first := range []string{"b", "a"} {
		n := Name{Instance: in.Number, Kind: File, Place: uint64(place)}
		second := map[string]string{"a": "b", "b": "a"}[first]
		for _, server := range []string{first, second} {
			if got, err := l.Decide(server, n, []byte(server)); err != nil || string(got) != first {
				t.Errorf("%s was told %q, %v; %s asked first", server, got, err, first)
			}
		}
	}
	if kept := l.lives[in.Number].kept; kept != 0 {
		t.Errorf("%d bytes are kept of what all have asked for", kept)
	}
	l.Leave("a", in.Number)
	if l.Leave("b", in.Number); len(l.lives) != 0 || len(l.seen) != 0 {
		t.Errorf("left by all, and still there: %v, %v", l.lives, l.seen)
	}
}

// Nobody gets the nonce that he has had, nor that of a connection which somebody has left.
func TestNonceIsForOneLife(t *testing.T) {
	l := NewLog(2, counter())
	for _, server := range []string{"a", "b"} {
		l.Arrive(server)
	}
	first := join(t, l, "a", client(1))
	again := join(t, l, "a", client(1))
	if again.Nonce == first.Nonce {
		t.Error("a server that came again has the same nonce")
	}
	if b := join(t, l, "b", client(1)); b != first {
		t.Errorf("b's first is %v, a's was %v", b, first)
	}
	if b := join(t, l, "b", client(1)); b != again {
		t.Errorf("b's second is %v, a's was %v", b, again)
	}
	l.Leave("a", again.Number)
	if c := join(t, l, "c", client(1)); c.Nonce == again.Nonce || c.Nonce == first.Nonce {
		t.Error("a server that came later has joined what was accepted before")
	}
	l.LeaveAll("a")
	l.LeaveAll("b")
	if l.LeaveAll("c"); len(l.lives) != 0 || len(l.seen) != 0 {
		t.Errorf("all servers are gone, and there is %v, %v", l.lives, l.seen)
	}
	if _, err := l.Decide("a", Name{Instance: again.Number}, nil); err == nil {
		t.Error("a server that has left was answered")
	}
	if _, err := l.Join("a", client(1)); err == nil {
		t.Error("a server that has left has joined")
	}
}

// A server that is late shares nothing with another connection of the same address and port.
func TestLateServerIsPairedByOrdinal(t *testing.T) {
	for _, left := range []bool{true, false} {
		l := NewLog(2, counter())
		l.Arrive("a")
		l.Arrive("b")
		first := join(t, l, "a", client(1))
		if left {
			l.Leave("a", first.Number)
		}
		second := join(t, l, "a", client(1))
		late := join(t, l, "b", client(1))
		if late.Nonce == second.Nonce || left == (late.Nonce == first.Nonce) {
			t.Errorf("the first left: %v; b's first %v, a's %v and %v", left, late, first, second)
		}
		if b := join(t, l, "b", client(1)); b != second {
			t.Errorf("the first left: %v; b's second %v, a's %v", left, b, second)
		}
	}
}

// A server that is started anew, or late, joins the other's start, and what is accepted from then on.
func TestStartedAnew(t *testing.T) {
	l := NewLog(2, counter())
	l.Arrive("a")
	join(t, l, "a", Connection{})
	join(t, l, "a", client(1))
	l.LeaveAll("a")
	l.Arrive("a")
	start := join(t, l, "a", Connection{})
	old := join(t, l, "a", client(1))
	l.Arrive("b")
	if b := join(t, l, "b", Connection{}); b != start {
		t.Errorf("b's start %v, a's %v", b, start)
	}
	next := join(t, l, "a", client(1))
	if b := join(t, l, "b", client(1)); b != next || b == old {
		t.Errorf("b's first %v, a's %v, its former %v", b, next, old)
	}
	l.LeaveAll("b")
	l.Arrive("b")
	if b := join(t, l, "b", Connection{}); b.Nonce == start.Nonce {
		t.Error("another run has the start's nonce again")
	}
}

// A server that comes late, or back, may be told again a connection that the others have accepted: what it decides for that is
// not the next one's from the same port, in whichever order they accept.
func TestToldAgain(t *testing.T) {
	l := NewLog(2, counter())
	first := join(t, l, "a", client(1))
	again := join(t, l, "b", client(1))
	if again == first {
		t.Error("b has joined what a has accepted before b came")
	}
	l.Leave("a", first.Number)
	second := join(t, l, "a", client(1))
	if second == again {
		t.Error("a's second connection has the randomness and the times of b's first")
	}
	third := join(t, l, "b", client(1)) // a's second, or one that a has not accepted yet
	if third == second {
		t.Error("b has joined what may be another connection")
	}
	l.Leave("b", again.Number)
	l.Leave("b", third.Number)
	if l.Leave("a", second.Number); len(l.lives) != 0 || len(l.seen) != 0 {
		t.Fatalf("all are over, and there is %v, %v", l.lives, l.seen)
	}
	if a, b := join(t, l, "a", client(1)), join(t, l, "b", client(1)); a != b {
		t.Errorf("they are in order again: a has %v, b %v", a, b)
	}
}

func TestLimits(t *testing.T) {
	l := NewLog(2, counter())
	in := join(t, l, "a", client(1))
	if _, err := l.Decide("a", Name{Instance: in.Number}, make([]byte, MaxValue+1)); err == nil {
		t.Error("a determinant above the limit was kept")
	}
	n := 0
	for ; n <= MaxKept/MaxValue; n++ {
		if _, err := l.Decide("a", Name{Instance: in.Number, Place: uint64(n)}, make([]byte, MaxValue)); err != nil {
			break
		}
	}
	if kept := l.lives[in.Number].kept; kept > MaxKept || n < MaxKept/MaxValue-1 {
		t.Errorf("%d bytes are kept of %d determinants", kept, n)
	}
	for port := range MaxInstances - 1 {
		c := client(uint16(port))
		c.Service = netip.AddrPortFrom(netip.IPv4Unspecified(), 1)
		join(t, l, "a", c)
	}
	if _, err := l.Join("a", client(2)); err == nil {
		t.Error("one connection too many was taken")
	}
}

// Servers with one secret draw the same; nothing is drawn twice, by whatever name.
func TestRandom(t *testing.T) {
	secret := bytes.Repeat([]byte{1}, SecretSize)
	other := bytes.Repeat([]byte{2}, SecretSize)
	one, two := Instance{1, [16]byte{1}}, Instance{2, [16]byte{2}}
	seen := map[string]string{}
	for _, s := range []struct {
		name     string
		secret   []byte
		instance Instance
		of       Connection
		path     string
	}{
		{"plain", secret, one, client(1), ""}, {"another secret", other, one, client(1), ""}, {"another life", secret, two, client(1), ""},
		{"another client", secret, one, client(2), ""}, {"a child", secret, one, client(1), Child("", 0)},
		{"another child", secret, one, client(1), Child("", 1)}, {"a grandchild", secret, one, client(1), Child(Child("", 0), 0)},
	} {
		r, err := NewRandom(s.secret, s.instance, s.of, s.path)
		if err != nil {
			t.Fatal(err)
		}
		again, err := NewRandom(s.secret, s.instance, s.of, s.path)
		if err != nil {
			t.Fatal(err)
		}
		again.Number(7) // of no effect on what is drawn
		for draw := range 3 {
			a, b := make([]byte, 100), make([]byte, 100)
			r.Draw(a)
			again.Draw(b)
			if !bytes.Equal(a, b) {
				t.Errorf("%s, draw %d: two servers differ", s.name, draw)
			}
			for at := 0; at+16 <= len(a); at += 16 {
				block, here := string(a[at:at+16]), fmt.Sprintf("%s, draw %d, byte %d", s.name, draw, at)
				if where, twice := seen[block]; twice {
					t.Errorf("%s is what was drawn at %s", here, where)
				}
				seen[block] = here
			}
		}
		if r.Number(7) != again.Number(7) || r.Number(7) == r.Number(8) {
			t.Errorf("%s: numbers", s.name)
		}
	}
	if _, err := NewRandom(secret[1:], one, client(1), ""); err == nil {
		t.Error("a short secret was taken")
	}
}
