package appliance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"lockstep/appliance/config"
	"lockstep/replication"
	"lockstep/replication/wire"
	"lockstep/tun"
)

// An appliance is fit while it could serve: both its networks are up (the carrier is
// there, and one of the hosts that should always answer does, networks.*.reach), and
// the kernel brings it its packets, its state can be written. An active that is not fit hands over to a standby
// that is: its clients or its servers cannot reach it, but nothing has died that
// anybody else could notice. A standby that is not fit is not in sync.

// errDeviceGone ends an appliance: the device cannot come back without a new process,
// and the standby can go on at once.
var errDeviceGone = errors.New("the TUN device " + tunName + " was deleted (ip link del?): nothing can be brought to this process any more; start it again")

// fitness is what keeps this appliance from serving, by who found it.
type fitness struct {
	front, back <-chan bool          // whether hosts are reached; nil: nobody is asked
	filter      <-chan []string      // faults of the packet filter; nil: no service needs it
	changed     chan struct{}        // cap 1: the role loop may have to act
	services    []wire.ServiceDigest // what is configured; immutable
	peer        chan struct{}        // cap 1: the peer has said something
	logged      []string             // of the peer; of watchFitness's goroutine
	staying     string               // why there is no hand-over, as logged; of the role loop
	comeback    comeback             // of watchFitness's goroutine

	telling sync.Mutex // outside mu: what is told last is what was found last

	mu     sync.Mutex
	faults map[string][]string  // by source; sentences
	began  map[string]time.Time // by source: since when there are some
}

// Who finds faults.
const (
	faultsOfKernel = "data path"
	faultsOfFront  = "front network"
	faultsOfBack   = "back network"
	faultsOfState  = "state"
	faultsOfFilter = "packet filter"
	faultsOfLoop   = "loop of "
	faultsOfHosts  = "hosts on " // and an interface
)

// reachPeriods is how many pings in a row must go unanswered.
const reachPeriods = 3

// reasons are the present faults, in a fixed order.
func (f *fitness) reasons() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	for _, faults := range f.faults {
		all = append(all, faults...)
	}
	slices.Sort(all)
	return all
}

// watchFitness begins to look after what this appliance needs in order to serve. end
// is called when it cannot any more.
func (n *Node) watchFitness(ctx context.Context, end func(error)) {
	front, back := n.cfg.Networks.Front.Interface, n.cfg.Networks.Back.Interface
	links, err := tun.WatchLinks(ctx, []string{front, back})
	if err != nil {
		n.log.Warn("links are not watched: a cable that is pulled does not cause a hand-over", "err", err)
	}
	n.tellFitness()
	n.wg.Add(1)
	go n.watchLoop(ctx)
	if n.voter != nil {
		n.wg.Add(1)
		go n.watchState(ctx)
	}
	n.wg.Add(1)
	go func() {
		defer n.wg.Done()
		defer n.fitness.comeback.stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-n.fitness.comeback.due():
				n.askAgain()
			case <-n.routes.Gone():
				end(errDeviceGone)
				return
			case <-n.fitness.peer:
				n.onPeerFitness()
			case faults := <-n.routes.Faults():
				n.found(faultsOfKernel, faults)
			case faults := <-n.fitness.filter:
				n.found(faultsOfFilter, faults)
			case e, ok := <-links:
				if !ok {
					links = nil
					continue
				}
				source := faultsOfFront
				if e.Name == back {
					source = faultsOfBack
				}
				n.found(source, faultIf(!e.Exists || !e.Carrier, e.Name+" has no carrier"))
			case reached := <-n.fitness.front:
				n.found(faultsOfHosts+front, faultIf(!reached, "nobody answers on "+front))
			case reached := <-n.fitness.back:
				n.found(faultsOfHosts+back, faultIf(!reached, "nobody answers on "+back))
			}
		}
	}()
}

// statePeriod is how often it is tried whether the voter's state could be written.
const statePeriod = 5 * time.Second

// watchState tells of a disk that is full or broken: the voter falls silent before it
// promises what it could forget, so this appliance could not become active.
func (n *Node) watchState(ctx context.Context) {
	defer n.wg.Done()
	tick := time.NewTicker(statePeriod)
	defer tick.Stop()
	for {
		var faults []string
		if err := n.voter.CheckState(); err != nil {
			faults = []string{err.Error()}
		}
		n.found(faultsOfState, faults)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func faultIf(is bool, fault string) []string {
	if !is {
		return nil
	}
	return []string{fault}
}

// watchReach begins to ask the hosts of a network; the result is nil if there are none.
func (n *Node) watchReach(undo *closers, net *config.Network) (<-chan bool, error) {
	if len(net.Reach) == 0 {
		return nil, nil
	}
	period := n.cfg.Pair.FailureTimeout
	r, err := tun.WatchReach(tun.ReachConfig{Interface: net.Interface, Targets: net.Reach, Period: period, Timeout: reachPeriods * period})
	if err != nil {
		return nil, err
	}
	undo.add("reach", func() error { r.Close(); return nil })
	return r.Events(), nil
}

// cutOff reports that neither network works here.
func (f *fitness) cutOff(front, back string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.faults[faultsOfFront])+len(f.faults[faultsOfHosts+front]) > 0 &&
		len(f.faults[faultsOfBack])+len(f.faults[faultsOfHosts+back]) > 0
}

// found replaces the faults that one source knows of, logs what has changed, and
// tells the peer and the role loop.
func (n *Node) found(source string, faults []string) {
	f := &n.fitness
	f.mu.Lock()
	old := f.faults[source]
	if slices.Equal(old, faults) {
		f.mu.Unlock()
		return
	}
	if f.faults == nil {
		f.faults, f.began = make(map[string][]string), make(map[string]time.Time)
	}
	f.faults[source] = faults
	began := f.began[source]
	if len(old) == 0 {
		f.began[source] = time.Now()
	}
	f.mu.Unlock()
	for _, fault := range faults {
		if !slices.Contains(old, fault) {
			n.log.Warn("this appliance cannot serve", "fault", fault)
		}
	}
	for _, fault := range old {
		if !slices.Contains(faults, fault) {
			n.log.Info("no longer a fault", "fault", fault)
		}
	}
	if len(faults) == 0 {
		n.networkBack(source, time.Since(began))
	}
	n.tellFitness()
	nudge(f.changed)
}

// tellFitness tells the peer what this appliance could do.
func (n *Node) tellFitness() {
	n.fitness.telling.Lock()
	defer n.fitness.telling.Unlock()
	say := wire.Fitness{Faults: n.fitness.reasons(), Services: n.fitness.services}
	n.journal.with(func(c *replication.Core, _ replication.Nanos) { c.SetFitness(say) })
}

// lookPeriod is how often an active that is not fit looks whether its standby is.
const lookPeriod = 100 * time.Millisecond

// shouldHandOver tells why an active should hand over, if it should.
func (n *Node) shouldHandOver() (why string, should bool) {
	faults := n.fitness.reasons()
	if len(faults) == 0 || n.getRole() != replication.RoleActive {
		n.fitness.staying = ""
		return "", false
	}
	err := n.mayHandOver()
	if err == nil && !n.journal.peerFit() {
		err = n.takeoverWorks()
	}
	if err != nil {
		if why := err.Error(); n.fitness.staying != why {
			n.fitness.staying = why
			n.log.Warn("no hand-over although this appliance cannot serve", "why", why)
		}
		return "", false
	}
	return fmt.Sprintf("%s here, all is well at the standby", strings.Join(faults, ", ")), true
}
