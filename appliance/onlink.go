package appliance

import (
	"context"
	"net/netip"
	"sync/atomic"
	"time"

	"lockstep/stack"
	"lockstep/tun"
)

// onLinkEvery is how soon it is noticed that an interface has got another network.
const onLinkEvery = 10 * time.Second

// onLink knows which addresses are on our own networks, and tells the engine of the hosts
// there that have asked for a virtual address.
type onLink struct {
	prefixes atomic.Pointer[[]netip.Prefix]
	engine   atomic.Pointer[stack.Engine] // nil until there is one
}

// has is asked on the packet path.
func (o *onLink) has(a netip.Addr) bool {
	list := o.prefixes.Load()
	if list == nil {
		return false
	}
	for _, p := range *list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func (o *onLink) heard(a netip.Addr) {
	if e := o.engine.Load(); e != nil {
		e.Heard(a)
	}
}

// read looks once. An interface that is away has no networks, and what was known stays.
func (n *Node) readOnLink() {
	list, err := tun.OnLink(n.cfg.Networks.Back.Gateway, n.cfg.Networks.Front.Interface, n.cfg.Networks.Back.Interface)
	if err != nil {
		n.log.Debug("own networks not read", "error", err.Error())
		return
	}
	n.onLink.prefixes.Store(&list)
}

func (n *Node) watchOnLink(ctx context.Context) {
	defer n.wg.Done()
	t := time.NewTicker(onLinkEvery)
	defer t.Stop()
	for {
		n.readOnLink()
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}
