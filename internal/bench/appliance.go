package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"lockstep/appliance/control"
	"lockstep/internal/lab"
	"lockstep/replication/identity"
)

const (
	pairName      = "bench"
	statusTimeout = 2 * time.Second
	statusPoll    = 10 * time.Millisecond
	endGrace      = 3 * time.Second // from SIGTERM to SIGKILL
)

// failureTimeout of the pairs that are not cut, in place of the default of 100 ms. A process that is killed closes
// its session, so silence plays no part in any figure here; but where client, server and both
// appliances compete for two CPUs, an appliance may well not get one for 100 ms.
const failureTimeout = time.Second

// applianceGateway is Lockstep, alone or as a pair.
type applianceGateway struct {
	self    string
	members []string
	setting setting // zero: see failureTimeout
	kept    bool    // with services whose connections outlive a server
	nodes   []*node
	witness *node // of a pair
}

// witnessName and witnessPort are the third voter's.
const (
	witnessName = "w"
	witnessPort = 7401
)

// node is one appliance: its process can be started again after a kill.
type node struct {
	name   string
	host   *lab.Host
	config string // file
	proc   *lab.Proc
	client *control.Client
}

func (g *applianceGateway) start(ctx context.Context, b *bed) error {
	keys := filepath.Join(b.dir, "keys")
	if len(g.members) > 1 {
		voters := append(slices.Clone(g.members), witnessName)
		if _, err := identity.Write(keys, pairName, voters, false); err != nil {
			return fmt.Errorf("make the pair's keys: %w", err)
		}
		g.witness = &node{name: witnessName, host: b.W, config: filepath.Join(b.dir, witnessName+".yaml")}
		if err := os.WriteFile(g.witness.config, []byte(witnessConfiguration(keys, b.dir, g.setting)), 0o600); err != nil {
			return fmt.Errorf("write configuration of the witness: %w", err)
		}
	}
	for _, name := range g.members {
		n := &node{name: name, host: b.Appliance(name), config: filepath.Join(b.dir, name+".yaml")}
		socket := filepath.Join(b.dir, name+".sock")
		if err := os.WriteFile(n.config, []byte(configuration(name, g.members, keys, filepath.Join(b.dir, "state-"+name), socket, g.setting, g.kept)), 0o600); err != nil {
			return fmt.Errorf("write configuration of %q: %w", name, err)
		}
		n.client = control.NewClient(socket)
		g.nodes = append(g.nodes, n)
	}
	return g.restart(ctx)
}

// configuration follows lockstep.example.yaml.
func configuration(name string, members []string, keys, state, socket string, s setting, kept bool) string {
	s = s.orDefault()
	third := "none"
	if len(members) > 1 {
		third = fmt.Sprintf("%s:%d", lab.Witness4, witnessPort)
	}
	var list, services strings.Builder
	for i, m := range members {
		fmt.Fprintf(&list, "    %s: 10.30.0.%d:7400\n", m, i+1)
	}
	for _, port := range []int{checkedPort, leanPort} {
		fmt.Fprintf(&services, `  - name: port%[1]d
    listen: ["%[2]s:%[1]d"]
    servers: ["10.20.0.11:%[1]d"]
    protection: gateway
    source: client
`, port, lab.VIP4)
	}
	if kept {
		services.WriteString(keptConfiguration())
	}
	return fmt.Sprintf(`node: %[1]s
pair:
  name: %[2]s
  members:
%[3]s  witness: %[13]s
  identity: %[4]q
  state: %[14]q
  heartbeat: %[12]v
  failure_timeout: %[11]v
networks:
  front: {interface: %[5]s}
  back: {interface: %[6]s, gateway: ["%[7]s/24", "%[8]s/64"]}
services:
%[9]scontrol: %[10]q
metrics: ""
`, name, pairName, list.String(), filepath.Join(keys, name), lab.FrontIf, lab.BackIf,
		lab.BackGateway4, lab.BackGateway6, services.String(), socket, s.failure, s.heartbeat, third, state)
}

func (s setting) orDefault() setting {
	if s.failure == 0 {
		s.heartbeat, s.failure = 20*time.Millisecond, failureTimeout
	}
	return s
}

// witnessConfiguration follows lockstep.witness.example.yaml.
func witnessConfiguration(keys, dir string, s setting) string {
	s = s.orDefault()
	return fmt.Sprintf("listen: %s:%d\nidentities: [%q]\nstate: %q\nheartbeat: %v\nfailure_timeout: %v\n",
		lab.Witness4, witnessPort, filepath.Join(keys, witnessName), filepath.Join(dir, "state-"+witnessName), s.heartbeat, s.failure)
}

// restart gives every node a new process: afterwards the first is active and the other is in
// sync with it. The witness stays.
func (g *applianceGateway) restart(ctx context.Context) error {
	for _, n := range g.nodes {
		if n.proc != nil {
			_ = n.proc.Kill() // one that was killed already is what we want
			<-n.proc.Done()
		}
	}
	if w := g.witness; w != nil && w.proc == nil {
		var err error
		w.proc, err = w.host.Start(lab.Command{Name: "witness", Path: g.self, Args: []string{"witness", "-c", w.config}, Environ: environment()})
		if err != nil {
			return fmt.Errorf("start the witness: %w", err)
		}
	}
	for _, n := range g.nodes {
		if err := g.launch(n); err != nil {
			return err
		}
	}
	if g.witness == nil {
		return g.await(ctx, "it is active", func(s []control.Status) bool { return s[0].Role == control.RoleActive }, g.nodes[0])
	}
	return g.settle(ctx)
}

// settle waits until the pair is in sync, and names the nodes by their roles: who is elected
// first is open.
func (g *applianceGateway) settle(ctx context.Context) error {
	return g.await(ctx, "the pair is in sync", func(s []control.Status) bool {
		if s[1].Role == control.RoleActive {
			s[0], s[1] = s[1], s[0]
			g.nodes[0], g.nodes[1] = g.nodes[1], g.nodes[0]
		}
		return s[0].Role == control.RoleActive && s[1].Role == control.RoleStandby && s[0].InSync && s[1].InSync
	}, g.nodes...)
}

// launch starts a node's process.
func (g *applianceGateway) launch(n *node) (err error) {
	n.proc, err = n.host.Start(lab.Command{Name: "lockstep", Path: g.self, Args: []string{"run", "-c", n.config}, Environ: environment()})
	if err != nil {
		return fmt.Errorf("start appliance %q: %w", n.name, err)
	}
	return nil
}

// await polls until cond holds for what the nodes say.
func (g *applianceGateway) await(ctx context.Context, what string, cond func([]control.Status) bool, nodes ...*node) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		var all []control.Status
		var last error
		for _, n := range nodes {
			s, err := n.status(ctx)
			if err != nil {
				last = fmt.Errorf("%s: %w", n.name, err)
				break
			}
			all = append(all, s)
		}
		if last == nil && cond(all) {
			return nil
		}
		for _, n := range nodes {
			if !n.proc.Running() {
				return fmt.Errorf("appliance %q ended (%s) before %s", n.name, life(n.proc), what)
			}
		}
		if err := pause(ctx, statusPoll); err != nil {
			return errors.Join(fmt.Errorf("not within %v: %s", readyTimeout, what), last)
		}
	}
}

func (n *node) status(ctx context.Context) (control.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	return n.client.Status(ctx)
}

// situation is what the nodes say of themselves, for error messages.
func (g *applianceGateway) situation() (text string) {
	for _, n := range g.nodes {
		if n.proc == nil || !n.proc.Running() {
			continue
		}
		s, err := n.status(context.Background())
		if err != nil {
			text += fmt.Sprintf("\n--- %s: %v", n.name, err)
			continue
		}
		text += fmt.Sprintf("\n--- %s: %s, in sync: %v %s, connections %+v, lag %+v, drops %v",
			n.name, s.Role, s.InSync, s.WhyNotInSync, s.Connections, s.Lag, s.Drops)
	}
	return text
}

func (g *applianceGateway) processes() (all []*lab.Proc) {
	for _, n := range g.nodes {
		if n.proc != nil {
			all = append(all, n.proc)
		}
	}
	return all
}

// check tells whether the roles are still those that restart left.
func (g *applianceGateway) check(ctx context.Context) error {
	for i, n := range g.nodes {
		s, err := n.status(ctx)
		if err != nil {
			return err
		}
		want := control.RoleActive
		if i > 0 {
			want = control.RoleStandby
		}
		if s.Role != want || s.Takeovers > 0 || i > 0 && !s.InSync {
			return fmt.Errorf("the pair changed by itself: %s is %s after %d takeovers, in sync: %v %s",
				n.name, s.Role, s.Takeovers, s.InSync, s.WhyNotInSync)
		}
	}
	return nil
}

func (g *applianceGateway) close() {
	var wg sync.WaitGroup
	if g.witness != nil && g.witness.proc != nil {
		wg.Go(func() { _ = g.witness.proc.Terminate(endGrace) })
	}
	for _, n := range g.nodes {
		n.client.Close()
		if n.proc != nil && n.proc.Running() {
			wg.Go(func() { _ = n.proc.Terminate(endGrace) }) // the lab kills what does not end
		}
	}
	wg.Wait()
}

// environment without the variables that would override the appliances' configuration.
func environment() (env []string) {
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "LOCKSTEP_") {
			env = append(env, kv)
		}
	}
	return env
}
