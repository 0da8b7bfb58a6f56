package rig

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"lockstep/appliance/control"
	"lockstep/internal/lab"
	"lockstep/internal/lab/labtest"
	"lockstep/replication/identity"
)

// Generous times of a pair, in YAML: a busy test machine must not look like a dead appliance.
// Most tests kill the process, which closes the session at once.
const Generous = "  heartbeat: 50ms\n  failure_timeout: 1s"

// Options of a pair. Services is needed.
type Options struct {
	lab.PairOptions
	// Services is the list under services:, in YAML, indented by two.
	Services string
	// Times is YAML under pair:, indented by two. Empty: Generous.
	Times string
	// Keys are further lines of it, which the witness does not have.
	Keys string
	// Reach are the hosts of the back network that the appliances ping. Empty: s1.
	Reach string
	// Clocks are the speeds of a's, b's and w's clocks: 0.99 is one per cent too slow. Not
	// named: true.
	Clocks map[string]float64
}

// env is what makes a process of the test binary a node, with its clock.
func (o *Options) env(node, kind, path string) []string {
	env := []string{kind + "=" + path}
	if speed, ok := o.Clocks[node]; ok {
		env = append(env, speedEnv+"="+strconv.FormatFloat(speed, 'g', -1, 64))
	}
	return env
}

func (o *Options) times() string {
	if o.Times == "" {
		return Generous
	}
	return o.Times
}

// Pair is the standard topology with the keys of its appliances. Nothing runs in it yet.
type Pair struct {
	*lab.PairLab
	T     testing.TB
	Dir   string               // keys, configuration, logs and state of everything
	procs map[string]*lab.Proc // the newest of each node
}

// New lays the topology. It ends with the test.
func New(t testing.TB, o lab.PairOptions) *Pair {
	t.Helper()
	labtest.RequireRoot(t)
	dir := t.TempDir() // first: it goes when everything in the lab has ended
	p := &Pair{T: t, PairLab: labtest.Pair(t, o), Dir: dir, procs: map[string]*lab.Proc{}}
	if _, err := identity.Write(p.Dir+"/keys", "e2e", []string{"a", "b", "w"}, false); err != nil {
		t.Fatal(err)
	}
	return p
}

// AwaitInSync waits until b is the standby of a and holds everything.
func (p *Pair) AwaitInSync() { p.T.Helper(); p.AwaitInSyncAs("b") }

// AwaitInSyncAs waits until that node is the standby and holds everything.
func (p *Pair) AwaitInSyncAs(standby string) {
	p.T.Helper()
	p.Await("the pair is in sync", func() bool {
		return p.Status("a").InSync && p.Status("b").InSync && p.Status(standby).Role == control.RoleStandby
	})
}

// Appliance starts a or b on the host of that name.
func (p *Pair) Appliance(node string, o Options) *lab.Proc {
	p.T.Helper()
	voter, reach := "none", o.Reach
	if o.Witness {
		voter = lab.Witness4 + ":7401"
	}
	if reach == "" {
		reach = p.ServerAddr(0, false, 0).Addr().String()
	}
	path := p.write(node+".yaml", fmt.Sprintf(`
node: %s
pair:
  name: e2e
  members: {a: "10.30.0.1:7400", b: "10.30.0.2:7400"}
  witness: %s
  state: %s
  identity: %s
%s
networks:
  front: {interface: eth0, reach: [%s]}
  back: {interface: eth1, gateway: [10.20.0.1/24, "fd20::1/64"], reach: [%s]}
services:
%s
control: %s
metrics: ""
`, node, voter, filepath.Join(p.Dir, "state-"+node), filepath.Join(p.Dir, "keys", node), o.times()+"\n"+o.Keys, lab.Client4, reach,
		o.Services, p.Socket(node)))
	return p.process(p.PairLab.Appliance(node), node, o.env(node, applianceEnv, path))
}

// Witness starts the witness, with the same times as the pair.
func (p *Pair) Witness(o Options) *lab.Proc {
	p.T.Helper()
	path := p.write("w.yaml", fmt.Sprintf("listen: %s:7401\nidentities: [%s]\nstate: %s\n%s\n", lab.Witness4,
		filepath.Join(p.Dir, "keys", "w"), filepath.Join(p.Dir, "state-w"), strings.ReplaceAll(o.times(), "  ", "")))
	return p.process(p.W, "w", o.env("w", witnessEnv, path))
}

func (p *Pair) write(name, yaml string) (path string) {
	p.T.Helper()
	path = filepath.Join(p.Dir, name)
	if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
		p.T.Fatal(err)
	}
	return path
}

// process starts this test binary in a host, as what env makes of it. The node's former process
// has to be gone first, as with any service manager: its session ends before its TUN device does.
func (p *Pair) process(h *lab.Host, node string, env []string) *lab.Proc {
	p.T.Helper()
	if former := p.procs[node]; former != nil {
		select {
		case <-former.Done():
		case <-time.After(time.Minute):
			p.T.Fatalf("the former process of %s does not end", node)
		}
	}
	self, err := os.Executable()
	if err != nil {
		p.T.Fatal(err)
	}
	proc, err := h.Start(lab.Command{Name: node, Path: self, Env: env, LogFile: filepath.Join(p.Dir, node+".log")})
	if err != nil {
		p.T.Fatal(err)
	}
	p.procs[node] = proc
	p.T.Cleanup(func() {
		// Its race detector speaks to nobody else: it may be killed before it could exit with a status.
		if strings.Contains(proc.Output(), "WARNING: DATA RACE") {
			p.T.Errorf("the race detector has found something in %s", node)
		}
		if p.T.Failed() {
			if proc.Running() && proc.Signal(syscall.SIGUSR1) == nil {
				<-time.After(300 * time.Millisecond) // diagnostics only: time to write the dump
			}
			p.T.Logf("--- %s:\n%s", node, proc.Tail(60))
		}
	})
	return proc
}

// answerIn is how long an appliance may take to answer on a busy machine; one that is dead refuses
// at once.
const answerIn = 10 * time.Second

// Socket is the path of an appliance's control socket.
func (p *Pair) Socket(node string) string { return filepath.Join(p.Dir, node+".sock") }

// Status asks an appliance; a zero Status if it does not answer.
func (p *Pair) Status(node string) control.Status {
	c := control.NewClient(p.Socket(node))
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), answerIn)
	defer cancel()
	s, _ := c.Status(ctx)
	return s
}

// Kept is what an appliance says of a service whose connections outlive their servers.
func (p *Pair) Kept(node, service string) control.Kept {
	for _, s := range p.Status(node).Services {
		if s.Name == service && s.Kept != nil {
			return *s.Kept
		}
	}
	return control.Kept{}
}

// Await polls until ok, for a minute at most.
func (p *Pair) Await(what string, ok func() bool) {
	p.T.Helper()
	deadline := time.Now().Add(time.Minute)
	for !ok() {
		if time.Now().After(deadline) {
			p.T.Fatalf("not reached within a minute: %s\na: %+v\nb: %+v", what, p.Status("a"), p.Status("b"))
		}
		<-time.After(20 * time.Millisecond)
	}
}

// Kill ends a process as a power cut does.
func (p *Pair) Kill(proc *lab.Proc) {
	p.T.Helper()
	if err := proc.Kill(); err != nil {
		p.T.Fatal(err)
	}
}
