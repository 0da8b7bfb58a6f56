package services

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/internal/lab"
	"lockstep/internal/lab/labtest"
	"lockstep/replication/identity"
	"lockstep/wrap"
	"lockstep/wrap/agree"
)

// Servers whose bytes depend on more than the request run under wrap, and ask the pair what their calls return.

// wrappedArg is how this program is told to run a wrapped server: what it is told follows.
const wrappedArg = "run-wrapped"

// wrapped is what such a process is told.
type wrapped struct {
	Keys    string // its directory
	Command []string
}

// wrappedMain is to be called first in TestMain.
func wrappedMain() {
	wrap.Main()
	if len(os.Args) != 3 || os.Args[1] != wrappedArg {
		return
	}
	if err := runWrapped(os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// deciders are the appliances' addresses on the back network.
var deciders = map[string]string{"a": "10.20.0.2:7480", "b": "10.20.0.3:7480"}

func runWrapped(text string) error {
	var w wrapped
	if err := json.Unmarshal([]byte(text), &w); err != nil {
		return err
	}
	id, err := identity.Load(w.Keys)
	if err != nil {
		return err
	}
	client, err := agree.Dial(agree.Place{Addresses: []string{deciders["a"], deciders["b"]}, Identity: id}, "", 20*time.Second)
	if err != nil {
		return err
	}
	defer client.Close()
	status, err := wrap.Run(wrap.Options{Command: w.Command, Secret: make([]byte, 32), Authority: client, Messages: os.Stderr})
	return errors.Join(err, fmt.Errorf("ended with status %v", status))
}

// layWrapped makes a bed with appliances in sync that wrapped servers may ask. No server runs.
func layWrapped(t *testing.T, s service) *bed {
	t.Helper()
	s.protection = config.ProtectHot
	o := options([]service{s})
	keys := t.TempDir()
	if _, err := identity.WriteServers(keys, "e2e", []string{"a", "b"}, []string{"s1", "s2"}, false); err != nil {
		t.Fatal(err)
	}
	tune := o.Tune
	o.Tune = func(c *config.Config) {
		tune(c)
		c.Authority.Members, c.Authority.Identity = map[string]netip.AddrPort{}, keys
		for node, at := range deciders {
			c.Authority.Members[node] = netip.MustParseAddrPort(at)
		}
	}
	b := prepare(t, o)
	b.keys = keys
	b.appliances(o)
	return b
}

// wrapped starts a wrapped server on the i-th server's host.
func (b *bed) wrapped(i int, command []string) *lab.Proc {
	b.t.Helper()
	self, err := os.Executable()
	if err != nil {
		b.t.Fatal(err)
	}
	name := fmt.Sprintf("s%d", i+1)
	told, err := json.Marshal(wrapped{filepath.Join(b.keys, name), command})
	if err != nil {
		b.t.Fatal(err)
	}
	p, err := b.Servers[i].Start(lab.Command{Name: "wrapped", Path: self, Args: []string{wrappedArg, string(told)}, Environ: b.environ(), LogFile: filepath.Join(b.Dir, name+".log")})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		if b.t.Failed() {
			b.t.Logf("--- %s:\n%s", name, p.Tail(20))
		}
	})
	return p
}

// awaitTwins waits until wrapped servers listen, and until the active one takes each server for healthy.
func (b *bed) awaitTwins(port int, servers ...*lab.Proc) {
	b.t.Helper()
	for _, p := range servers {
		b.Await("a wrapped server listens", func() bool { return listens(p, port) })
	}
	b.awaitHealthy("a")
}

// listens says whether somebody listens on the port, on the host of a process, without a connection that a server would see.
func listens(p *lab.Proc, port int) bool {
	want := fmt.Sprintf(":%04X ", port)
	for _, family := range []string{"tcp", "tcp6"} {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", p.PID(), family)) // without it nobody is seen
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > 3 && strings.HasSuffix(f[1]+" ", want) && f[3] == "0A" {
				return true
			}
		}
	}
	return false
}

// end kills a wrapped server: its supervisor, with which all dies.
func (b *bed) end(p *lab.Proc) {
	b.t.Helper()
	b.Kill(p)
	<-p.Done()
}

// tlsServer serves files by TLS. It forks for each connection: what a process draws is of one connection.
const tlsServer = `
import os, signal, socket, ssl, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
listener = socket.create_server(("", int(sys.argv[1])))
while True:
    plain, _ = listener.accept()
    if os.fork():
        plain.close()
        continue
    listener.close()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2], sys.argv[3])
    try:
        with context.wrap_socket(plain, server_side=True) as client:
            request = client.recv(4096)
            with open(os.path.join(sys.argv[4], os.path.basename(request.split()[1].decode())), "rb") as file:
                client.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % os.stat(file.fileno()).st_size)
                while piece := file.read(65536):
                    client.sendall(piece)
            while client.recv(4096):
                pass
    except (OSError, IndexError):
        pass # a health check
    os._exit(0)
`

// TLS 1.3 sessions with wrapped servers outlive their server, whose keys the other one has, one that was started anew as well, and the appliance.
func TestWrappedTLS(t *testing.T) {
	labtest.RequirePrograms(t, "openssl:openssl", "curl:curl", "python3:python3")
	s := service{name: "tls", port: 8443, to: 4433}
	b := layWrapped(t, s)
	www := b.dir("www")
	medium.create(t, www)
	cert, key := filepath.Join(b.Dir, "cert"), filepath.Join(b.Dir, "key")
	if p, err := b.Client.Start(lab.Command{Path: "openssl", Args: []string{"req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=files", "-keyout", key, "-out", cert}}); err != nil {
		t.Fatal(err)
	} else if <-p.Done(); p.Err() != nil {
		t.Fatalf("making a certificate: %v\n%s", p.Err(), p.Tail(5))
	}
	command := []string{"/usr/bin/python3", "-c", tlsServer, fmt.Sprint(s.to), cert, key, www}
	servers := [2]*lab.Proc{b.wrapped(0, command), b.wrapped(1, command)}
	b.awaitTwins(s.to, servers[:]...)
	// get has two clients download at the same time, and expects so many changes of their servers at whoever is active afterwards.
	get := func(node string, fault func(), changes uint64) {
		t.Helper()
		before := b.Kept(node, s.name).Failovers
		l := b.load()
		for n := range 2 {
			l.run(fmt.Sprint("get ", n), nil, newSink(holdAt, l.free, medium.all()), "curl", "-sS", "-k", fmt.Sprintf("https://%s:%d/%s", lab.VIP4, s.port, medium.name))
		}
		l.through(fault)
		if k := b.sound(node, s); k.Failovers != before+changes {
			t.Errorf("%d connections have changed their server, not %d", k.Failovers-before, changes)
		}
		b.Await("the connections are over", func() bool { return b.Kept(node, s.name).Connections == 0 })
	}
	for range 2 { // the second time one that was started anew
		get("a", func() { b.end(servers[0]) }, 2)
		servers[0] = b.wrapped(0, command)
		b.awaitTwins(s.to, servers[0])
	}
	get("b", func() {
		b.Kill(b.a)
		b.Await("b is active", func() bool { return b.Status("b").Role == control.RoleActive })
		b.end(servers[0])
	}, 2)
}
