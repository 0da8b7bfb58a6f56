package agree

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lockstep/replication/identity"
	"lockstep/wrap/determinant"
)

// serve serves until end is called, or the test is over.
func serve(t *testing.T) (path string, end func()) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "sock")
	ctx, cancel := context.WithCancel(t.Context())
	var joined sync.WaitGroup
	joined.Go(func() {
		if err := Serve(ctx, Place{Socket: path}, Process(2), io.Discard, nil); err != nil {
			t.Error(err)
		}
	})
	end = func() { cancel(); joined.Wait() }
	t.Cleanup(end)
	for limit := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		c, err := net.Dial("unix", path)
		if err == nil {
			c.Close()
			return path, end
		}
		if time.Now().After(limit) {
			t.Fatal(err)
		}
	}
}

func dial(t *testing.T, path, server string) *Client {
	t.Helper()
	c, err := Dial(Place{Socket: path}, server, 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestTwoServersAgree(t *testing.T) {
	path, end := serve(t)
	a, b := dial(t, path, "a"), dial(t, path, "b")
	in, err := a.Join(determinant.Connection{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := b.Join(determinant.Connection{}); err != nil || got != in {
		t.Fatalf("b has %v, %v; a %v", got, err, in)
	}
	n := determinant.Name{Instance: in.Number, Path: determinant.Child("", 3), Kind: determinant.File, Place: 7}
	var first []byte
	for server, c := range map[string]*Client{"a": a, "b": b} {
		got, err := c.Decide(n, bytes.Repeat([]byte{server[0]}, determinant.MaxValue))
		if err != nil || len(got) != determinant.MaxValue {
			t.Errorf("%s: %d bytes, %v", server, len(got), err)
		}
		if first != nil && !bytes.Equal(got, first) {
			t.Errorf("%s was told something else than who asked first", server)
		}
		first = got
	}
	if _, err := Dial(Place{Socket: path}, "a", time.Second); err == nil {
		t.Error("two servers have one name")
	}
	if err := a.Leave(in.Number); err != nil {
		t.Error(err)
	}
	if _, err := a.Decide(n, nil); err == nil {
		t.Error("a server that has left was answered")
	}
	end()
	if _, err := b.Decide(n, nil); err == nil {
		t.Error("nobody decides, and an answer came")
	}
	if _, err := b.Join(determinant.Connection{}); err == nil {
		t.Error("an answer came after there was none")
	}
}

// A name is one determinant's, whatever bytes its path has.
func TestPathsAreBytes(t *testing.T) {
	path, _ := serve(t)
	a, b := dial(t, path, "a"), dial(t, path, "b")
	in, err := a.Join(determinant.Connection{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Join(determinant.Connection{}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*Client{a, b} {
		for n := range uint64(300) {
			want := binary.BigEndian.AppendUint64(nil, n)
			got, err := c.Decide(determinant.Name{Instance: in.Number, Path: determinant.Child("", n)}, want)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("child %d has %x, %v", n, got, err)
			}
		}
	}
}

// Only a socket that nobody serves is taken away.
func TestOtherFilesAreLeft(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Serve(ctx, Place{Socket: path}, Process(2), io.Discard, nil); err == nil {
		t.Error("a file was taken for a socket")
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "content" {
		t.Errorf("the file has %q, %v", text, err)
	}
	left := filepath.Join(t.TempDir(), "sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: left, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if err := Serve(ctx, Place{Socket: left}, Process(2), io.Discard, nil); err != nil {
		t.Error(err)
	}
}

// What is too large or no message ends that connection and nobody else's.
func TestNonsense(t *testing.T) {
	path, _ := serve(t)
	for _, text := range [][]byte{binary.BigEndian.AppendUint32(nil, maxMessage+1), {0, 0, 0, 2, 'x', 'y'}} {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(text); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(make([]byte, 1)); err == nil {
			t.Errorf("%d bytes answered to %q", n, text)
		}
		c.Close()
	}
	dial(t, path, "a")
}

// What is read of a message is what was written, and nothing else is read.
func TestMessages(t *testing.T) {
	client := netip.MustParseAddrPort("[2001:db8::1%eth0]:1")
	for _, q := range []question{
		{op: askHello, server: "a"},
		{op: askJoin}, // the start
		{op: askJoin, of: determinant.Connection{Client: client, Service: netip.MustParseAddrPort("0.0.0.0:445")}},
		{op: askDecide, name: determinant.Name{Instance: 1 << 63, Kind: 4, Position: 2, Place: 3}, proposal: []byte("value")},
		{op: askDecide, name: determinant.Name{Path: determinant.Child(determinant.Child("", 255), 1<<40)}, proposal: []byte{}},
		{op: askLeave, name: determinant.Name{Instance: 5}},
	} {
		b, err := q.append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := parseQuestion(b[4:]); err != nil || !reflect.DeepEqual(got, q) {
			t.Errorf("%+v came as %+v, %v", q, got, err)
		}
		if q.op == askHello {
			continue // a name has any length
		}
		for n := range len(b) - 4 - len(q.proposal) {
			if got, err := parseQuestion(b[4 : 4+n]); err == nil {
				t.Errorf("%d bytes of %+v were taken for %+v", n, q, got)
			}
		}
		if q.op != askDecide { // a proposal has any length
			if _, err := parseQuestion(append(b[4:], 0)); err == nil {
				t.Errorf("%+v and a byte more was taken", q)
			}
		}
	}
	if _, err := (question{op: askDecide, name: determinant.Name{Path: strings.Repeat("x", maxPath+1)}}).append(nil); err == nil {
		t.Error("a path above the limit was told")
	}
	for _, a := range []answer{{op: saysYes, value: []byte("value")}, {op: saysYes, instance: determinant.Instance{Number: 1, Nonce: [16]byte{15: 1}}}} {
		op := byte(askDecide)
		if a.instance.Number != 0 {
			op = askJoin
		}
		b := a.append(nil)
		got, err := parseAnswer(op, b[4:])
		if err != nil || got.instance != a.instance || op == askDecide && !bytes.Equal(got.value, a.value) {
			t.Errorf("%+v came as %+v, %v", a, got, err)
		}
		if _, err := parseAnswer(op, b[4:4]); err == nil {
			t.Error("nothing was taken for an answer")
		}
	}
}

func FuzzQuestion(f *testing.F) {
	f.Add([]byte{askJoin, 6, 1, 2, 3, 4, 5, 6, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := parseQuestion(b)
		if err != nil {
			return
		}
		if again, err := q.append(nil); err == nil && q.op != askJoin && !bytes.Equal(again[4:], b) {
			t.Errorf("%x was read as %+v, which is %x", b, q, again[4:])
		}
	})
}

// An authority that says nothing is gone when the time is over, and not asked again.
func TestSilence(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := Dial(Place{Socket: path}, "a", 20*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("nobody answers: %v", err)
	}
}

// BenchmarkDecide is a question for what stat has said, by one process, and its answer: at a socket, and by keys over the loopback
// interface.
func BenchmarkDecide(b *testing.B) {
	b.Run("socket", func(b *testing.B) {
		at := Place{Socket: filepath.Join(b.TempDir(), "sock")}
		benchmarkDecide(b, at, at)
	})
	b.Run("keys", func(b *testing.B) {
		dir := b.TempDir()
		var ids [2]*identity.Identity
		names := []string{"a", "decider"}
		_, err := identity.WriteServers(dir, "edge", names[1:], names[:1], false)
		for i := range ids {
			if err == nil {
				ids[i], err = identity.Load(filepath.Join(dir, names[i]))
			}
		}
		if err != nil {
			b.Fatal(err)
		}
		benchmarkDecide(b, Place{Addresses: []string{"127.0.0.1:7480"}, Identity: ids[1]}, Place{Addresses: []string{"127.0.0.1:7480"}, Identity: ids[0]})
	})
}

func benchmarkDecide(b *testing.B, at, from Place) {
	ctx, cancel := context.WithCancel(b.Context())
	var joined sync.WaitGroup
	joined.Go(func() {
		if err := Serve(ctx, at, Process(1), io.Discard, nil); err != nil {
			b.Error(err)
		}
	})
	defer joined.Wait()
	defer cancel()
	var c *Client
	for c == nil {
		c, _ = Dial(from, "a", 5*time.Second) // it is about to listen
	}
	defer c.Close()
	in, err := c.Join(determinant.Connection{})
	if err != nil {
		b.Fatal(err)
	}
	value := make([]byte, 100)
	b.ResetTimer()
	for n := range b.N {
		if _, err := c.Decide(determinant.Name{Instance: in.Number, Kind: determinant.File, Place: uint64(n)}, value); err != nil {
			b.Fatal(err)
		}
	}
}

// Servers on hosts of their own and who decides know each other by keys, and nobody else is served.
func TestByKeys(t *testing.T) {
	dir := t.TempDir()
	if _, err := identity.WriteServers(dir, "edge", []string{"decider", "another"}, []string{"s1", "s2"}, false); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.WriteServers(dir+"/others", "edge", nil, []string{"s1", "s2"}, false); err != nil {
		t.Fatal(err)
	}
	load := func(node string) *identity.Identity {
		t.Helper()
		id, err := identity.Load(filepath.Join(dir, node))
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // a port that nobody else gets within this test
	if err != nil {
		t.Fatal(err)
	}
	at := Place{Addresses: []string{l.Addr().String()}, Identity: load("decider")}
	l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var joined sync.WaitGroup
	var refused bytes.Buffer
	joined.Go(func() {
		if err := Serve(ctx, at, Process(2), &refused, nil); err != nil {
			t.Error(err)
		}
	})
	defer joined.Wait()
	defer cancel()
	connect := func(node string) (*Client, error) {
		mine := Place{Addresses: at.Addresses, Identity: load(node)}
		for limit := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
			c, err := Dial(mine, "s2", 10*time.Second) // the key says who it is, not the name
			if !errors.Is(err, syscall.ECONNREFUSED) || time.Now().After(limit) {
				return c, err
			}
		}
	}
	a, err := connect("s1")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := connect("s2")
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	in, err := a.Join(client(1))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := b.Join(client(1)); err != nil || got != in {
		t.Fatalf("b has %v, %v; a %v", got, err, in)
	}
	want := bytes.Repeat([]byte("value"), determinant.MaxValue/5)
	for _, c := range []*Client{a, b} {
		if got, err := c.Decide(determinant.Name{Instance: in.Number, Kind: determinant.File}, want); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
	for _, node := range []string{"others/s1", "s1", "decider", "another"} { // a stranger, one that is here already, the authority's own key, one that is no server's
		if _, err := connect(node); err == nil {
			t.Errorf("%s was served", node)
		}
	}
	plain, err := net.Dial("tcp", at.Addresses[0])
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	b2, err := question{op: askHello, server: "s3"}.append(nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = plain.Write(b2) // refused, otherwise
	if got, _ := io.ReadAll(plain); bytes.Contains(got, []byte{saysYes}) && len(got) == 5 {
		t.Errorf("one without a key was told %x", got)
	}
	cancel()
	joined.Wait()
	if !strings.Contains(refused.String(), "unknown") || !strings.Contains(refused.String(), "made for something else") {
		t.Errorf("nobody was said to be refused: %s", &refused)
	}
}

// client is a connection.
func client(port uint16) determinant.Connection {
	return determinant.Connection{Client: netip.AddrPortFrom(netip.MustParseAddr("203.0.113.100"), port)}
}

// When who decides is back, connections that begin then are agreed on again, and no instance is one of before.
func TestComesBack(t *testing.T) {
	path, end := serve(t)
	a := dial(t, path, "a")
	old, err := a.Join(client(1))
	if err != nil {
		t.Fatal(err)
	}
	end()
	if _, err := a.Decide(determinant.Name{Instance: old.Number}, nil); err == nil {
		t.Fatal("nobody decides, and an answer came")
	}
	ctx, cancel := context.WithCancel(t.Context())
	var joined sync.WaitGroup
	joined.Go(func() {
		if err := Serve(ctx, Place{Socket: path}, Process(2), io.Discard, nil); err != nil {
			t.Error(err)
		}
	})
	defer joined.Wait()
	defer cancel()
	var now determinant.Instance
	for limit := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		a.tried = time.Time{} // long ago
		if now, err = a.Join(client(2)); err == nil || time.Now().After(limit) {
			break
		}
	}
	if err != nil || now.Number == old.Number {
		t.Fatalf("%v, %v; before: %v", now, err, old)
	}
	if _, err := a.Decide(determinant.Name{Instance: old.Number}, nil); err == nil {
		t.Error("an instance of before was answered for")
	}
	if got, err := a.Decide(determinant.Name{Instance: now.Number}, []byte("x")); err != nil || string(got) != "x" {
		t.Errorf("%q, %v", got, err)
	}
}
