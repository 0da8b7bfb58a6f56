package appliance

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/splice"
	"lockstep/stack"
	"lockstep/tun"
	"lockstep/tun/steer"
)

// steeringPeriod is how often it is looked whether packets may be steered, and are.
const steeringPeriod = time.Second

// startSteering loads what lets packets come by a shorter way than the rules', which stay. Without it
// all is as with it, and costs more.
func (n *Node) startSteering(undo *closers, mtu int) {
	if n.cfg.Networks.Steering == config.SteeringRules {
		n.noSteering = "steering: rules"
		return
	}
	s, without, err := steerAtLeast(n.steerConfig(mtu), steer.New)
	if without != nil && err == nil {
		n.noFlows = steeringHint(without)
		n.log.Warn("connections that are passed on stay with this process (networks.steering is flows)", "why", n.noFlows)
	}
	if err != nil {
		n.noSteering = steeringHint(err)
		n.log.Info("packets take the way of routing and packet filter", "why", n.noSteering)
		return
	}
	n.steering, n.others = s, tun.NewOthers(n.cfg.Networks.Front.Interface, n.cfg.Networks.Back.Interface, tunName)
	undo.add("steering", s.Close)
	n.lookSteering()
}

// steerAtLeast steers without flows, as `auto` does, where those cannot be had; without says why.
func steerAtLeast(c steer.Config, open func(steer.Config) (*steer.Steering, error)) (s *steer.Steering, without, err error) {
	if s, err = open(c); err == nil || c.Flows == 0 {
		return s, nil, err
	}
	without, c.Flows = err, 0
	s, err = open(c)
	return s, without, err
}

func steeringHint(err error) string {
	if errors.Is(err, os.ErrPermission) {
		return err.Error() + " (steering takes CAP_BPF beside CAP_NET_ADMIN, of the machine and not of a container)"
	}
	return err.Error()
}

// steerConfig names what no rule of the packet filter's is about: services with a ttl of their own are left out.
func (n *Node) steerConfig(mtu int) steer.Config {
	c := steer.Config{
		TUN: tunName, Front: n.cfg.Networks.Front.Interface, Back: n.cfg.Networks.Back.Interface, MTU: mtu,
		Strict:   n.cfg.Networks.Ingress == config.IngressStrict,
		Gateways: n.gateways(), VIPs: n.vips(), Servers: n.transparentServers(), Log: n.log,
	}
	var least, sends []netip.AddrPort
	for i := range n.cfg.Services {
		for _, h := range hopLimits(&n.cfg.Services[i]) {
			if h.Least > 0 {
				least = append(least, h.Addr)
			}
			if h.Send > 0 {
				sends = append(sends, h.Addr)
			}
		}
	}
	without := func(all, some []netip.AddrPort) []netip.AddrPort {
		return slices.DeleteFunc(slices.Clone(all), func(a netip.AddrPort) bool { return slices.Contains(some, a) })
	}
	for _, s := range n.cfg.Services {
		c.Listen = append(c.Listen, without(s.Listen, least)...)
		c.From = append(c.From, without(s.Listen, sends)...)
		c.To = append(c.To, without(s.Servers, sends)...)
		c.AllFrom = append(c.AllFrom, s.Servers...)
	}
	if n.cfg.Networks.Steering == config.SteeringFlows {
		c.Flows = steeredFlows
	}
	return c
}

// steeredFlows is how many connections are passed on by the kernel at a time: about half a KiB of its memory each, taken at the start.
const steeredFlows = 16384

// flows adapts steer.Flows to what the engine asks for.
type flows struct{ *steer.Flows }

// flow is one connection of theirs.
type flow struct {
	of *steer.Flows
	at steer.Entry
}

func (f flows) Enter(o *splice.Offloaded) (stack.OffloadedFlow, error) {
	at, err := f.Flows.Enter(o)
	if err != nil {
		return nil, err
	}
	return flow{f.Flows, at}, nil
}

func (f flow) Read(o *splice.Offloaded) error  { return f.of.Read(f.at, o) }
func (f flow) Leave(o *splice.Offloaded) error { return f.of.Leave(f.at, o) }

// offload is who passes connections on in the engine's place; nil: nobody does.
func (n *Node) offload() stack.Offload {
	if n.steering == nil || n.steering.Flows() == nil {
		return nil
	}
	return flows{n.steering.Flows()}
}

func (n *Node) lookSteering() {
	var around steer.Around
	var err error
	if around.Obstacle, err = n.others.Look(); err != nil {
		around.Obstacle = fmt.Sprintf("who else must see packets is not known: %v", err)
	}
	if around.Own, err = tun.OwnAddresses(); err != nil && around.Obstacle == "" {
		around.Obstacle = err.Error()
	}
	for i, name := range []string{n.cfg.Networks.Front.Interface, n.cfg.Networks.Back.Interface} {
		if around.ReversePath[i], err = tun.ReversePath(name); err != nil && around.Obstacle == "" {
			around.Obstacle = err.Error()
		}
	}
	n.steering.Look(around)
}

// watchSteering looks after it.
func (n *Node) watchSteering(ctx context.Context) {
	defer n.wg.Done()
	if n.steering == nil {
		return
	}
	t := time.NewTicker(steeringPeriod)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			n.lookSteering()
		}
	}
}

func (n *Node) statusSteering(s *control.Status) {
	if n.steering == nil {
		s.Steering.Why = n.noSteering
		return
	}
	s.Steering = control.Steering{Why: n.steering.Why(), NoFlows: n.noFlows, Packets: n.steering.Packets()}
	s.Steering.On = s.Steering.Why == ""
	if f := n.steering.Flows(); f != nil {
		s.Steering.Flows, s.Steering.Entered, s.Steering.Left = f.Len(), n.engine.C.Offloaded.Load(), n.engine.C.TakenBack.Load()
	}
}

// CheckSteering says in advance what startSteering would find on this machine.
func CheckSteering(c *config.Config) []config.Warning {
	if c.Networks.Steering == config.SteeringRules {
		return nil
	}
	why := ""
	if err := steer.Ask(); errors.Is(err, os.ErrPermission) {
		return []config.Warning{steeringUnknown(err)}
	} else if err != nil {
		why = steeringHint(err)
	} else if why, err = tun.NewOthers(c.Networks.Front.Interface, c.Networks.Back.Interface).Look(); errors.Is(err, os.ErrPermission) {
		return []config.Warning{steeringUnknown(err)}
	} else if err != nil {
		return nil // an interface is missing: said already
	}
	if why == "" {
		return nil
	}
	return []config.Warning{{Path: "networks.steering", Msg: "packets will take the way of routing and packet filter, which costs more: " + why,
		Hint: "that is all right; `steering: rules` says so"}}
}

func steeringUnknown(err error) config.Warning {
	return config.Warning{Path: "networks.steering", Msg: fmt.Sprintf("not known from here whether packets will be steered past routing: %v", err),
		Hint: "check as root, or with the rights that the appliance is given (CAP_BPF, CAP_NET_ADMIN)"}
}
