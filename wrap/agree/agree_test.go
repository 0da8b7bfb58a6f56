package agree

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"lockstep/wrap/determinant"
)

// serve serves until end is called, or the test is over.
func serve(t *testing.T) (path string, end func()) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "sock")
	ctx, cancel := context.WithCancel(t.Context())
	var joined sync.WaitGroup
	joined.Go(func() {
		if err := Serve(ctx, path, 2); err != nil {
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
	c, err := Dial(path, server, 30*time.Second)
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
	if _, err := Dial(path, "a", time.Second); err == nil {
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
	if err := Serve(ctx, path, 2); err == nil {
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
	if err := Serve(ctx, left, 2); err != nil {
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
