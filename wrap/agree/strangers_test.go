package agree

import (
	"bytes"
	"context"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lockstep/replication/identity"
)

// Who connects and says nothing keeps no server out, however many they are: the oldest has to go.
func TestStrangersKeepNobodyOut(t *testing.T) {
	at := Place{Socket: filepath.Join(t.TempDir(), "sock")}
	ctx, cancel := context.WithCancel(t.Context())
	var joined sync.WaitGroup
	var said bytes.Buffer
	joined.Go(func() {
		if err := Serve(ctx, at, Process(2), &said, nil); err != nil {
			t.Error(err)
		}
	})
	defer joined.Wait()
	defer cancel()
	var first net.Conn
	for n := range maxServers + maxStrangers {
		c, err := net.Dial("unix", at.Socket)
		for limit := time.Now().Add(30 * time.Second); err != nil && time.Now().Before(limit); time.Sleep(time.Millisecond) {
			c, err = net.Dial("unix", at.Socket)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if n == 0 {
			first = c
		}
	}
	a, err := Dial(at, "a", 30*time.Second)
	if err != nil {
		t.Fatalf("a server is kept out: %v", err)
	}
	defer a.Close()
	if _, err := first.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the oldest is told %v", err)
	}
	if _, err := a.Join(client(1)); err != nil {
		t.Errorf("who has said who it is: %v", err)
	}
	cancel()
	joined.Wait()
	if !strings.Contains(said.String(), "newer ones have not said") {
		t.Errorf("it is not said: %s", &said)
	}
}

// A server whose host is gone is missed soon: the kernel asks for it, and bears no silence for longer.
func TestHostThatIsGoneIsMissed(t *testing.T) {
	dir := t.TempDir()
	if _, err := identity.WriteServers(dir, "edge", []string{"d"}, []string{"s"}, false); err != nil {
		t.Fatal(err)
	}
	at := Place{Addresses: []string{"127.0.0.1:0"}}
	var err error
	if at.Identity, err = identity.Load(filepath.Join(dir, "d")); err != nil {
		t.Fatal(err)
	}
	l, err := at.listen()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	from := Place{Addresses: []string{l.Addr().String()}}
	if from.Identity, err = identity.Load(filepath.Join(dir, "s")); err != nil {
		t.Fatal(err)
	}
	var joined sync.WaitGroup
	defer joined.Wait()
	joined.Go(func() {
		if c, err := from.dial(0, time.Now().Add(30*time.Second)); err != nil {
			t.Error(err)
		} else {
			c.Close()
		}
	})
	raw, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if _, _, err := at.accepted(raw); err != nil {
		t.Fatal(err)
	}
	control, err := raw.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := control.Control(func(fd uintptr) {
		for option, want := range map[int]int{unix.TCP_KEEPIDLE: 1, unix.TCP_KEEPINTVL: 1, unix.TCP_KEEPCNT: 4, unix.TCP_USER_TIMEOUT: 5000} {
			if got, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, option); err != nil || got != want {
				t.Errorf("option %d of TCP is %d, %v, want %d", option, got, err, want)
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
}
