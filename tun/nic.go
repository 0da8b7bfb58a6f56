package tun

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// NIC is a network interface's state at one moment.
type NIC struct {
	Name  string
	Index int // 0: the interface does not exist
	MTU   int // bytes
	MAC   net.HardwareAddr
	Up    bool // the administrator wants it up
	// Carrier: up and the physical link (or the veth's other end) is there, so
	// that frames can pass.
	Carrier bool
}

// LinkEvent is the state of an interface after a change. Exists is false when
// it was deleted or renamed.
type LinkEvent struct {
	NIC
	Exists bool
}

// ReadNIC reads an interface's state in the caller's network namespace.
func ReadNIC(name string) (NIC, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return NIC{}, fmt.Errorf("read interface %q: open netlink socket: %w", name, err)
	}
	defer h.Close()
	l, err := h.LinkByName(name)
	if err != nil {
		return NIC{}, fmt.Errorf("read interface %q: %w", name, err)
	}
	return nicOf(l.Attrs()), nil
}

func nicOf(a *netlink.LinkAttrs) NIC {
	return NIC{
		Name: a.Name, Index: a.Index, MTU: a.MTU, MAC: slices.Clone(a.HardwareAddr),
		Up:      a.RawFlags&unix.IFF_UP != 0,
		Carrier: a.RawFlags&(unix.IFF_UP|unix.IFF_RUNNING) == unix.IFF_UP|unix.IFF_RUNNING,
	}
}

func (n NIC) equal(o NIC) bool {
	return n.Name == o.Name && n.Index == o.Index && n.MTU == o.MTU && n.Up == o.Up &&
		n.Carrier == o.Carrier && slices.Equal(n.MAC, o.MAC)
}

// WatchLinks reports the state of the named interfaces: first what each one is
// now (Exists false where it is missing), then every change. A slow receiver
// gets the newest state of each interface, not every one between. The channel
// is closed when ctx ends, after which no goroutine of it remains, or when the
// kernel ends the subscription.
func WatchLinks(ctx context.Context, names []string) (<-chan LinkEvent, error) {
	sub, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
	if err != nil {
		return nil, fmt.Errorf("watch links: subscribe: %w", err)
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		sub.Close()
		return nil, fmt.Errorf("watch links: open netlink socket: %w", err)
	}
	w := &linkWatch{handle: h, state: make(map[string]LinkEvent), dirty: make(map[string]bool)}
	for _, name := range names {
		w.state[name] = LinkEvent{NIC: NIC{Name: name}}
		w.mark(name)
	}
	if err := w.list(); err != nil {
		sub.Close()
		h.Close()
		return nil, fmt.Errorf("watch links: %w", err)
	}
	out := make(chan LinkEvent)
	go w.run(ctx, sub, out)
	return out, nil
}

// linkWatch belongs to run's goroutine once that started.
type linkWatch struct {
	handle *netlink.Handle
	state  map[string]LinkEvent // per watched name
	dirty  map[string]bool      // changed and not yet handed out
	queue  []string             // the dirty ones in order of change
}

// linkMsg is one notification, or resync after notifications were lost.
type linkMsg struct {
	deleted bool
	nic     NIC
	resync  bool
}

func (w *linkWatch) run(ctx context.Context, sub *nl.NetlinkSocket, out chan<- LinkEvent) {
	msgs := make(chan linkMsg)
	stop := make(chan struct{})
	go receiveLinks(sub, msgs, stop)
	defer func() {
		close(stop)
		sub.Close() // ends receiveLinks
		for range msgs {
		}
		w.handle.Close()
		close(out)
	}()
	for {
		var send chan<- LinkEvent
		var next LinkEvent
		if len(w.queue) > 0 {
			send, next = out, w.state[w.queue[0]]
		}
		select {
		case <-ctx.Done():
			return
		case send <- next:
			delete(w.dirty, w.queue[0])
			w.queue = w.queue[1:]
		case m, ok := <-msgs:
			if !ok {
				return
			}
			if m.resync {
				// On an error here the next notification or resync corrects it.
				_ = w.list()
				continue
			}
			w.apply(m)
		}
	}
}

// receiveLinks turns netlink messages into linkMsgs until the socket closes.
func receiveLinks(sub *nl.NetlinkSocket, msgs chan<- linkMsg, stop <-chan struct{}) {
	defer close(msgs)
	put := func(m linkMsg) bool {
		select {
		case msgs <- m:
			return true
		case <-stop:
			return false
		}
	}
	for {
		raw, from, err := sub.Receive()
		switch {
		case err == nil:
		case errors.Is(err, os.ErrClosed), errors.Is(err, unix.EBADF):
			return
		default:
			// ENOBUFS: notifications were lost, so read everything anew. Any
			// other error gets the same, slowly, so as not to spin on it.
			if !errors.Is(err, unix.ENOBUFS) {
				select {
				case <-stop:
					return
				case <-time.After(100 * time.Millisecond):
				}
			}
			if !put(linkMsg{resync: true}) {
				return
			}
			continue
		}
		if from.Pid != nl.PidKernel {
			continue
		}
		for _, m := range raw {
			lm, ok := decodeLink(m.Header.Type, m.Data)
			if ok && !put(lm) {
				return
			}
		}
	}
}

func decodeLink(typ uint16, data []byte) (linkMsg, bool) {
	if (typ != unix.RTM_NEWLINK && typ != unix.RTM_DELLINK) || len(data) < unix.SizeofIfInfomsg {
		return linkMsg{}, false
	}
	// A bridge reports its ports' comings and goings with the same message
	// types: an AF_BRIDGE RTM_DELLINK means "left the bridge", not "deleted".
	if nl.DeserializeIfInfomsg(data).Family == unix.AF_BRIDGE {
		return linkMsg{}, false
	}
	l, err := netlink.LinkDeserialize(nil, data)
	if err != nil {
		return linkMsg{}, false
	}
	return linkMsg{deleted: typ == unix.RTM_DELLINK, nic: nicOf(l.Attrs())}, true
}

// list reads all interfaces and applies what differs.
func (w *linkWatch) list() error {
	links, err := w.handle.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("list interfaces: %w", err)
	}
	found := make(map[string]bool)
	for _, l := range links {
		n := nicOf(l.Attrs())
		found[n.Name] = true
		w.apply(linkMsg{nic: n})
	}
	for name := range w.state {
		if !found[name] {
			w.set(name, LinkEvent{NIC: NIC{Name: name}})
		}
	}
	return nil
}

func (w *linkWatch) apply(m linkMsg) {
	for name, ev := range w.state {
		if ev.Index == m.nic.Index && name != m.nic.Name && ev.Exists {
			w.set(name, LinkEvent{NIC: NIC{Name: name}}) // renamed away
		}
	}
	if _, watched := w.state[m.nic.Name]; !watched {
		return
	}
	if m.deleted {
		w.set(m.nic.Name, LinkEvent{NIC: NIC{Name: m.nic.Name}})
		return
	}
	w.set(m.nic.Name, LinkEvent{NIC: m.nic, Exists: true})
}

func (w *linkWatch) set(name string, ev LinkEvent) {
	old := w.state[name]
	if old.Exists == ev.Exists && old.NIC.equal(ev.NIC) {
		return
	}
	w.state[name] = ev
	w.mark(name)
}

func (w *linkWatch) mark(name string) {
	if !w.dirty[name] {
		w.dirty[name] = true
		w.queue = append(w.queue, name)
	}
}
