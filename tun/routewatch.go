package tun

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Faults delivers what is wrong with the data path whenever that changes: what this
// package can not put back, or may not, such as a virtual address on an interface.
// Each is a whole sentence. The newest list replaces one that was not taken.
func (r *Routes) Faults() <-chan []string { return r.faults }

// Gone is closed when somebody has deleted the TUN device.
func (r *Routes) Gone() <-chan struct{} { return r.gone }

// watchedGroups are the kernel's reports that call for a look.
var watchedGroups = []uint{
	unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
	unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
	unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF,
}

// watchKernel begins to look after what was installed, in the caller's namespace.
func (r *Routes) watchKernel(ctx context.Context) error {
	sub, err := nl.Subscribe(unix.NETLINK_ROUTE, watchedGroups...)
	if err != nil {
		return fmt.Errorf("watch rules and routes: subscribe: %w", err)
	}
	r.defaults.changed.Store(true)
	changed, urgent := make(chan struct{}, 1), make(chan struct{}, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.receiveChanges(ctx, sub, changed, urgent)
	}()
	r.wg.Go(func() {
		r.watch(ctx, changed, urgent)
		sub.Close() // ends receiveChanges
		<-ended
	})
	return nil
}

// watch looks at once when something has changed, and every second. What is urgent
// waits for no pause.
func (r *Routes) watch(ctx context.Context, changed, urgent <-chan struct{}) {
	every := time.NewTicker(lookEvery)
	defer every.Stop()
	var known []string
	for {
		faults := r.look(time.Now())
		if !slices.Equal(faults, known) {
			known = faults
			select {
			case <-r.faults:
			default:
			}
			r.faults <- faults // has room: we are the only sender
		}
		select {
		case <-ctx.Done():
			return
		case <-urgent:
			continue
		case <-time.After(lookPause):
		}
		select {
		case <-ctx.Done():
			return
		case <-urgent:
		case <-changed:
		case <-every.C:
		}
	}
}

// receiveChanges asks for a look when the kernel reports something that may concern
// us, until the socket is closed.
func (r *Routes) receiveChanges(ctx context.Context, sub *nl.NetlinkSocket, changed, urgent chan<- struct{}) {
	for {
		msgs, from, err := sub.Receive()
		switch {
		case errors.Is(err, os.ErrClosed), errors.Is(err, unix.EBADF):
			return
		case err != nil && !errors.Is(err, unix.ENOBUFS): // lost reports: look
			select {
			case <-ctx.Done():
				return
			case <-time.After(lookPause): // a lasting error must not spin
			}
		case err == nil && (from.Pid != nl.PidKernel || !slices.ContainsFunc(msgs, r.concerns)):
			continue
		}
		notify := changed
		if slices.ContainsFunc(msgs, r.claims) {
			notify = urgent
		}
		select {
		case notify <- struct{}{}:
		default:
		}
	}
}

// claims: the kernel was given a virtual address. From that moment on it resets every
// connection of which a segment comes.
func (r *Routes) claims(m syscall.NetlinkMessage) bool {
	if m.Header.Type != unix.RTM_NEWADDR || len(m.Data) < unix.SizeofIfAddrmsg {
		return false
	}
	attrs, err := nl.ParseRouteAttr(m.Data[unix.SizeofIfAddrmsg:])
	if err != nil {
		return false
	}
	return slices.ContainsFunc(attrs, func(a syscall.NetlinkRouteAttr) bool {
		ip, ok := netip.AddrFromSlice(a.Value)
		return ok && (a.Attr.Type == unix.IFA_ADDRESS || a.Attr.Type == unix.IFA_LOCAL) &&
			slices.ContainsFunc(r.cfg.Virtual, func(v netip.Addr) bool { return v.Unmap() == ip.Unmap() })
	})
}

// concerns: a host may have a million routes that come and go, so of these only ours
// count.
func (r *Routes) concerns(m syscall.NetlinkMessage) bool {
	if m.Header.Type != unix.RTM_NEWROUTE && m.Header.Type != unix.RTM_DELROUTE {
		return true
	}
	if len(m.Data) < unix.SizeofRtMsg {
		return false
	}
	rt := nl.DeserializeRtMsg(m.Data)
	if rt.Dst_len == 0 && rt.Table == unix.RT_TABLE_MAIN {
		r.defaults.changed.Store(true)
		return true
	}
	// Connected routes (of the kernel's) lead to the servers' networks.
	return rt.Protocol == routeProtocol || rt.Protocol == unix.RTPROT_KERNEL
}
