package tun

import (
	"errors"

	"golang.org/x/sys/unix"
)

// follow puts routes back that the kernel removed with a link: setting an
// interface down deletes the routes through it, and setting it up again brings
// only those back that belong to an address.
func (r *Routes) follow(events <-chan LinkEvent) {
	for ev := range events {
		if ev.Exists && ev.Up {
			r.restoreRoutes(ev)
		}
	}
}

func (r *Routes) restoreRoutes(ev LinkEvent) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	for _, rt := range r.routes {
		if rt.Type == unix.RTN_BLACKHOLE {
			continue
		}
		if rt.Table == unix.RT_TABLE_MAIN && ev.Name == r.cfg.Back {
			rt.LinkIndex = ev.Index // deleted and made again under its name
		}
		if rt.LinkIndex != ev.Index {
			continue
		}
		switch err := r.nl.RouteAdd(rt); {
		case err == nil:
			r.log.Info("restored a route that went with its link", "interface", ev.Name, "to", rt.Dst.String(), "table", rt.Table)
		case errors.Is(err, unix.EEXIST):
		default: // down again, most likely; the next event repeats this
			r.log.Warn("cannot restore a route", "interface", ev.Name, "to", rt.Dst.String(), "table", rt.Table, "err", err)
		}
	}
}
