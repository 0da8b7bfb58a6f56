package services

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
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
	s.set = func(c *config.Service) { c.Health.Canary = false } // a server that serves one at a time would serve that one
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

// twins starts two wrapped servers and waits until both listen. make is the command of the i-th.
func (b *bed) twins(port int, make func(i int) []string) (servers [2]*lab.Proc) {
	b.t.Helper()
	self, err := os.Executable()
	if err != nil {
		b.t.Fatal(err)
	}
	for i := range servers {
		name := fmt.Sprintf("s%d", i+1)
		told, err := json.Marshal(wrapped{filepath.Join(b.keys, name), make(i)})
		if err != nil {
			b.t.Fatal(err)
		}
		p, err := b.Servers[i].Start(lab.Command{Name: "wrapped", Path: self, Args: []string{wrappedArg, string(told)}, Environ: b.environ(), LogFile: filepath.Join(b.Dir, name+".log")})
		if err != nil {
			b.t.Fatal(err)
		}
		servers[i] = p
		b.t.Cleanup(func() {
			if b.t.Failed() {
				b.t.Logf("--- %s:\n%s", name, p.Tail(20))
			}
		})
	}
	for i, p := range servers {
		b.Await(fmt.Sprintf("s%d listens", i+1), func() bool { return listens(p, port) })
	}
	b.Await("both are healthy", func() bool {
		for _, node := range []string{"a", "b"} {
			said := b.Status(node)
			for _, s := range said.Services {
				if said.Role == control.RoleActive && !slices.ContainsFunc(s.Servers, func(x control.Backend) bool { return !x.Healthy }) {
					return true
				}
			}
		}
		return false
	})
	return servers
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

// A TLS 1.3 session with wrapped servers outlives its server, whose keys the other one has, and the appliance. (One after the other: s_server is one
// process, whose generator would go on from the first telling of the request when it is told it again after a takeover.)
func TestWrappedTLS(t *testing.T) {
	labtest.RequirePrograms(t, "openssl:openssl", "curl:curl")
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
	start := func() [2]*lab.Proc {
		return b.twins(s.to, func(int) []string {
			return []string{"sh", "-c", `cd "$0" && exec openssl s_server -quiet -WWW -accept "$1" -cert "$2" -key "$3"`, www, fmt.Sprint(s.to), cert, key}
		})
	}
	get := func(fault func()) {
		t.Helper()
		l := b.load()
		l.run("get", nil, newSink(holdAt, l.free, medium.all()), "curl", "-sS", "-k", fmt.Sprintf("https://%s:%d/%s", lab.VIP4, s.port, medium.name))
		l.through(fault)
	}
	// gone is a download in which the first server dies, at whoever is active.
	gone := func(node string) {
		t.Helper()
		servers := start()
		before := b.Kept(node, s.name).Failovers
		get(func() { b.end(servers[0]) })
		if k := b.sound(node, s); k.Failovers != before+1 {
			t.Errorf("%d connections have changed their server, not 1", k.Failovers-before)
		}
		b.end(servers[1])
	}
	gone("a")
	servers := start()
	get(func() { b.Kill(b.a) })
	b.sound("b", s)
	for _, p := range servers {
		b.end(p)
	}
	gone("b") // the successor decides for servers that start now
}
