//go:build amd64

package wrap

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lockstep/wrap/agree"
)

// tee is what the pair does for servers, as far as these tests need it: what a client sends goes to two servers, from the same
// address and port, the second one's not before it has sent what the first had when the client sent it.
// The client gets the first one's answer; both are kept.
type tee struct {
	t        *testing.T
	listener net.Listener
	servers  [2]string
	joined   sync.WaitGroup

	mu      sync.Mutex
	changed *sync.Cond
	said    [][2]*bytes.Buffer // by connection
	over    bool
}

func newTee(t *testing.T, servers [2]string) *tee {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	x := &tee{t: t, listener: l, servers: servers}
	x.changed = sync.NewCond(&x.mu)
	x.joined.Go(x.run)
	t.Cleanup(x.close)
	return x
}

func (x *tee) close() {
	x.mu.Lock()
	x.over = true
	x.changed.Broadcast()
	x.mu.Unlock()
	x.listener.Close()
	x.joined.Wait()
}

func (x *tee) run() {
	for {
		c, err := x.listener.Accept()
		if err != nil {
			return
		}
		x.joined.Go(func() { x.carry(c) })
	}
}

// dial connects both servers from one port.
func (x *tee) dial() (legs [2]net.Conn, err error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 3, 1)}, Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) }); e != nil {
			return e
		}
		return err
	}}
	for i, server := range x.servers {
		if legs[i], err = d.Dial("tcp4", server); err != nil {
			return legs, err
		}
		d.LocalAddr = legs[0].LocalAddr()
	}
	return legs, nil
}

func (x *tee) carry(client net.Conn) {
	defer client.Close()
	legs, err := x.dial()
	for _, leg := range legs {
		if leg != nil {
			defer leg.Close()
		}
	}
	if err != nil {
		x.t.Errorf("connecting the servers: %v", err)
		return
	}
	said := [2]*bytes.Buffer{{}, {}}
	x.mu.Lock()
	x.said = append(x.said, said)
	x.mu.Unlock()
	var all sync.WaitGroup
	for i, leg := range legs {
		all.Go(func() { x.answers(i, leg, said[i], client) })
	}
	chunk, lost := make([]byte, 64<<10), false
	for {
		n, err := client.Read(chunk)
		x.mu.Lock()
		by := said[0].Len()
		x.mu.Unlock()
		if n > 0 {
			_, _ = legs[0].Write(chunk[:n]) // a server that has closed has said all
		}
		x.mu.Lock()
		limit := time.Now().Add(5 * time.Second)
		for !lost && said[1].Len() < by && !x.over && time.Now().Before(limit) {
			stop := time.AfterFunc(time.Second, x.changed.Broadcast) // for the limit
			x.changed.Wait()
			stop.Stop()
		}
		lost = said[1].Len() < by // it says something else, and is waited for no more
		x.mu.Unlock()
		if n > 0 {
			_, _ = legs[1].Write(chunk[:n])
		}
		if err != nil {
			break
		}
	}
	for _, leg := range legs {
		_ = leg.(*net.TCPConn).CloseWrite() // it is closed, otherwise
		_ = leg.SetReadDeadline(time.Now().Add(10 * time.Second))
	}
	all.Wait()
}

func (x *tee) answers(i int, leg net.Conn, said *bytes.Buffer, client net.Conn) {
	chunk := make([]byte, 64<<10)
	for {
		n, err := leg.Read(chunk)
		x.mu.Lock()
		said.Write(chunk[:n])
		x.changed.Broadcast()
		x.mu.Unlock()
		if i == 0 && n > 0 {
			_, _ = client.Write(chunk[:n]) // a client that has gone wants nothing
		}
		if err != nil {
			if i == 0 {
				_ = client.(*net.TCPConn).CloseWrite()
			}
			return
		}
	}
}

// compare waits until all is over, and returns how many bytes the first server has sent and how many of the second's differ.
func (x *tee) compare() (sent, differ int) {
	x.close()
	for n, said := range x.said {
		a, b := said[0].Bytes(), said[1].Bytes()
		sent += len(a)
		first := -1
		for i := range max(len(a), len(b)) {
			if i >= len(a) || i >= len(b) || a[i] != b[i] {
				if differ++; first < 0 {
					first = i
				}
			}
		}
		if first >= 0 {
			x.t.Logf("connection %d: %d and %d bytes, the first that differs is %d", n, len(a), len(b), first)
		}
	}
	return sent, differ
}

// twins starts two servers, wrapped and agreeing, or not, and waits until both listen.
func twins(t *testing.T, agreeing bool, port int, make func(i int, host string) []string) [2]string {
	t.Helper()
	needRoot(t)
	w := wrapped{Secret: bytes.Repeat([]byte{7}, 32)}
	if agreeing {
		w.Authority, _ = decide(t)
	} else {
		w.Secret = nil
	}
	var at [2]string
	for i := range at {
		host := fmt.Sprintf("127.0.3.%d", 11+i)
		w.Command, w.Server = make(i, host), host
		at[i] = fmt.Sprintf("%s:%d", host, port)
		start(t, w)
	}
	for _, address := range at {
		until(t, address+" listens", func() bool { return listens(address) })
	}
	return at
}

// decide serves determinants for two, until end is called or the test is over.
func decide(t *testing.T) (path string, end func()) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "sock")
	ctx, cancel := context.WithCancel(t.Context())
	var joined sync.WaitGroup
	joined.Go(func() {
		if err := agree.Serve(ctx, agree.Place{Socket: path}, agree.Process(2), os.Stderr, nil); err != nil {
			t.Error(err)
		}
	})
	end = func() { cancel(); joined.Wait() }
	t.Cleanup(end)
	until(t, "the authority", func() bool {
		c, err := net.Dial("unix", path)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return path, end
}

// listens says whether somebody listens there, without a connection that a server would see.
func listens(address string) bool {
	a := netip.MustParseAddrPort(address)
	ip := a.Addr().As4()
	want := fmt.Sprintf(": %02X%02X%02X%02X:%04X 00000000:0000 0A ", ip[3], ip[2], ip[1], ip[0], a.Port())
	text, _ := os.ReadFile("/proc/net/tcp") // without it nobody is seen
	return strings.Contains(string(text), want)
}

// Everything that a server could tell is the same from both, for two clients, one after the other; and not without agreement.
func TestTwinsTell(t *testing.T) {
	for _, agreeing := range []bool{true, false} {
		t.Run(fmt.Sprintf("agreeing=%v", agreeing), func(t *testing.T) {
			file := [2]string{}
			for i := range file { // two files that differ in number and times
				file[i] = filepath.Join(t.TempDir(), "file")
				if err := os.WriteFile(file[i], []byte("content"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			at := twins(t, agreeing, 7801, func(i int, host string) []string {
				return program(t, "teller", host+":7801", file[i])
			})
			x := newTee(t, at)
			var answers []string
			for range 2 {
				c, err := net.Dial("tcp4", x.listener.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				in := bufio.NewReader(c)
				for _, question := range []string{"first", "second", "third"} {
					fmt.Fprintln(c, question)
					line, err := in.ReadString('\n')
					if err != nil {
						t.Fatal(err)
					}
					answers = append(answers, line[strings.Index(line, "random"):])
				}
				c.Close()
			}
			sent, differ := x.compare()
			t.Logf("%d of %d bytes differ; the first answer: %s", differ, sent, answers[0])
			if agreeing != (differ == 0) || sent < 1000 {
				t.Errorf("%d of %d bytes differ", differ, sent)
			}
			slices.Sort(answers)
			if answers = slices.Compact(answers); len(answers) != 6 {
				t.Errorf("answers repeat: %q", answers)
			}
		})
	}
}

// Before there is a connection times are equal as well, however often each server has waited: a library may have made its
// generator of one.
func TestTwinsStart(t *testing.T) {
	needRoot(t)
	path, _ := decide(t)
	var outs [2]*said
	for i := range outs {
		cmd := command(t, wrapped{
			Command:   []string{"bash", "-c", "while read -N 1 c && [ $c = x ]; do :; done; echo $EPOCHREALTIME; read -N 1 c; echo $EPOCHREALTIME; read c"},
			Authority: path, Server: fmt.Sprint(i), Secret: make([]byte, 32),
		})
		in, err := cmd.StdinPipe() // from which bash reads each byte by a call
		if err != nil {
			t.Fatal(err)
		}
		outs[i] = &said{}
		cmd.Stdout, cmd.Stderr = outs[i], outs[i]
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			in.Close()
			_ = cmd.Wait() // what it said is looked at
		}()
		fmt.Fprint(in, strings.Repeat("x", 20*i)+"yx")
		until(t, "two times", func() bool { return strings.Count(outs[i].String(), "\n") == 2 })
	}
	if outs[0].String() != outs[1].String() {
		t.Errorf("one server's times are %s, the other's %s", outs[0], outs[1])
	}
}

// When nobody decides any more, a server goes on with results of its own, and says so.
func TestAuthorityIsGone(t *testing.T) {
	needRoot(t)
	path, end := decide(t)
	const address = "127.0.3.11:7804"
	_, out := start(t, wrapped{Command: program(t, "teller", address, "/etc/passwd"), Authority: path, Server: "a", Secret: make([]byte, 32)})
	until(t, address+" listens", func() bool { return listens(address) })
	c, err := net.Dial("tcp4", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	in, seen := bufio.NewReader(c), map[string]bool{}
	for n := range 3 {
		fmt.Fprintln(c, "question")
		line, err := in.ReadString('\n')
		if err != nil || seen[line] {
			t.Fatalf("answer %d: %q, %v", n, line, err)
		}
		seen[line] = true
		if n == 0 {
			end()
		}
	}
	until(t, "the message", func() bool { return strings.Contains(out.String(), "has results of its own from now on") })
}

// certificate makes a key and a certificate for TLS.
func certificate(t *testing.T) (key, crt string) {
	t.Helper()
	key, crt = filepath.Join(t.TempDir(), "key"), filepath.Join(t.TempDir(), "crt")
	tool(t, "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=files", "-keyout", key, "-out", crt)
	return key, crt
}

func tool(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Errorf("%v: %v\n%s", args, err, out)
	}
	return string(out)
}

// A dynamic program in C, whose library draws from a generator that was seeded at the program's start: TLS.
func TestTwinsTLS(t *testing.T) {
	key, crt := certificate(t)
	dir := t.TempDir()
	content := bytes.Repeat([]byte("0123456789abcdef"), 50_000)
	if err := os.WriteFile(filepath.Join(dir, "file"), content, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, agreeing := range []bool{true, false} {
		t.Run(fmt.Sprintf("agreeing=%v", agreeing), func(t *testing.T) {
			at := twins(t, agreeing, 7802, func(_ int, host string) []string {
				return []string{"sh", "-c", "cd " + dir + " && exec openssl s_server -quiet -WWW -key " + key + " -cert " + crt + " -accept " + host + ":7802"}
			})
			x := newTee(t, at)
			for _, version := range []uint16{tls.VersionTLS13, tls.VersionTLS12} {
				c, err := tls.Dial("tcp4", x.listener.Addr().String(), &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version})
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprint(c, "GET /file HTTP/1.0\r\n\r\n")
				got, _ := io.ReadAll(c) // s_server ends without a close_notify
				if c.Close(); !bytes.HasSuffix(got, content) {
					t.Errorf("%d bytes, of %d", len(got), len(content))
				}
			}
			sent, differ := x.compare()
			t.Logf("%d of %d bytes differ", differ, sent)
			if agreeing != (differ == 0) {
				t.Errorf("%d of %d bytes differ", differ, sent)
			}
		})
	}
}
