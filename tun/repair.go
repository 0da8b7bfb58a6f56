package tun

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Kinds of what a look repairs.
const (
	repairSysctl = "sysctl"
	repairLink   = "link"
	repairRoute  = "route"
	repairRule   = "rule"
	// repairAddress: the kernel's entry for a virtual address was removed.
	repairAddress = "address"
)

// Repairs counts what was put back, by kind.
type Repairs map[string]uint64

// Repairs tells what was put back since InstallRoutes.
func (r *Routes) Repairs() Repairs {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.repairs)
}

// look compares the kernel with what is desired and puts back what is missing. It
// returns what is wrong and not ours to mend, or could not be mended.
func (r *Routes) look(now time.Time) (faults []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	tun, err := r.nl.LinkByIndex(r.tunIndex)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		r.lost()
		return []string{fmt.Sprintf("the TUN device %s was deleted", r.cfg.TUN)}
	}
	fault := func(err error) {
		if err != nil {
			faults = append(faults, err.Error())
		}
	}
	done := func(kind string, what ...string) {
		for _, w := range what {
			r.noteRepair(now, kind, w)
		}
	}
	foreign, err := r.kernelAddresses() // first: each moment may cost connections
	fault(err)
	for _, a := range foreign {
		if r.disown(a) {
			done(repairAddress, fmt.Sprintf("the kernel took %s for its own", a.addr))
		}
		faults = append(faults, a.fault)
	}
	changed, err := r.desired.sysctls.repair()
	done(repairSysctl, changed...)
	fault(err)
	if tun != nil {
		changed, err = r.repairTUN(tun)
		done(repairLink, changed...)
		fault(err)
	}
	changed, err = r.repairRoutes()
	done(repairRoute, changed...)
	fault(err)
	changed, err = r.repairRules()
	done(repairRule, changed...)
	fault(err)
	lost, err := r.defaults.faults(func(v6 bool) (bool, error) { return hasDefault(r.nl, r.cfg.Front, v6) }, r.cfg.Front, now)
	fault(err)
	faults = append(faults, lost...)
	return append(faults, r.upkeep.struggle(now)...)
}

// disown removes the entry of the local table by which the kernel takes packets to a
// virtual address for its own; until then those to an IPv6 one were reset, see
// throwRoutes. The address itself stays where somebody has put it, which is a fault: the
// kernel may choose it as a source, and answers neighbour solicitations for it.
func (r *Routes) disown(a kernelAddress) bool {
	rt := &netlink.Route{Dst: hostNet(a.addr), Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL}
	if a.addr.Is4() {
		rt.LinkIndex, rt.Scope = a.index, netlink.SCOPE_HOST
	}
	return r.nl.RouteDel(rt) == nil
}

func (r *Routes) repairTUN(tun netlink.Link) (changed []string, err error) {
	if tun.Attrs().Flags&net.FlagUp == 0 {
		if err := r.nl.LinkSetUp(tun); err != nil {
			return nil, fmt.Errorf("set link %q up again: %w", r.cfg.TUN, err)
		}
		changed = append(changed, "link "+r.cfg.TUN+" was down")
	}
	addrs, err := r.nl.AddrList(tun, netlink.FAMILY_V4)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return changed, fmt.Errorf("list addresses of %q: %w", r.cfg.TUN, err)
	}
	if !slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.IP.Equal(dummyAddr().AsSlice()) }) {
		if err := r.addDummy(tun); err != nil {
			return changed, err
		}
		changed = append(changed, fmt.Sprintf("address %s of %s was gone", dummyAddr(), r.cfg.TUN))
	}
	return changed, nil
}

// repairRoutes asks the kernel to add what should be there: what is, it refuses to
// have twice, which costs less than reading a table of many.
func (r *Routes) repairRoutes() (changed []string, err error) {
	var errs []error
	add := func(rt *netlink.Route) bool {
		switch err := r.nl.RouteAdd(rt); {
		case err == nil:
			changed = append(changed, fmt.Sprintf("route %s of table %d was gone", rt.Dst, rt.Table))
			return true
		case errors.Is(err, unix.EEXIST), errors.Is(err, unix.ENETDOWN), errors.Is(err, unix.ENODEV):
			// There, or its link is down, which is a fault of its own.
		default:
			errs = append(errs, fmt.Errorf("restore route %s of table %d: %w", rt.Dst, rt.Table, err))
		}
		return false
	}
	for i := range r.desired.routes {
		add(r.desired.routes[i].Route)
	}
	back, err := r.nl.LinkByName(r.cfg.Back)
	if err != nil || back.Attrs().Flags&net.FlagUp == 0 {
		return changed, errors.Join(errs...) // told by whoever watches the carrier
	}
	index := back.Attrs().Index
	for i := range r.desired.prefixes {
		w := &r.desired.prefixes[i]
		if !w.ours && !r.astray(w, index) {
			continue
		}
		w.LinkIndex = index // it may have been deleted and made again under its name
		if add(w.Route) {
			w.ours = true
		}
	}
	return changed, errors.Join(errs...)
}

// astray: the kernel's own route to a servers' network is gone, so that their packets
// go elsewhere or nowhere.
func (r *Routes) astray(w *wantedPrefix, backIndex int) bool {
	if !w.server.IsValid() {
		return false
	}
	got, err := r.nl.RouteGet(w.server.AsSlice())
	return errors.Is(err, unix.ENETUNREACH) || err == nil && len(got) > 0 && got[0].LinkIndex != backIndex
}

func (r *Routes) repairRules() (changed []string, err error) {
	have := make(map[string]bool)
	families := make(map[int]bool)
	for _, rule := range r.desired.rules {
		families[rule.Family] = true
	}
	for family := range families {
		rules, err := r.nl.RuleList(family)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil, fmt.Errorf("list rules: %w", err)
		}
		for i := range rules {
			have[fmt.Sprint(family, ruleKey(&rules[i]))] = true
		}
	}
	var errs []error
	for _, rule := range r.desired.rules {
		if have[fmt.Sprint(rule.Family, ruleKey(rule))] {
			continue
		}
		switch err := r.nl.RuleAdd(rule); {
		case err == nil:
			changed = append(changed, fmt.Sprintf("rule from %s to %s table %d was gone", prefixKey(rule.Src), prefixKey(rule.Dst), rule.Table))
		case !errors.Is(err, unix.EEXIST):
			errs = append(errs, fmt.Errorf("restore %v: %w", rule, err))
		}
	}
	return changed, errors.Join(errs...)
}

func prefixKey(n *net.IPNet) string {
	if n == nil || n.IP == nil {
		return "all"
	}
	if ones, _ := n.Mask.Size(); ones == 0 {
		return "all"
	}
	return n.String()
}

// lost tells once that the TUN device is gone: nothing can bring it back but a new
// process, since the descriptor belongs to the device.
func (r *Routes) lost() {
	select {
	case <-r.gone:
	default:
		close(r.gone)
	}
}

const (
	// lookEvery is how often everything is looked at without an event: for what the
	// kernel does not report.
	lookEvery = time.Second
	// lookPause is the least time between two looks: who removes what we put back does
	// so against ten repairs a second at most.
	lookPause = 100 * time.Millisecond
	// More than struggleCount repairs within struggleTime: somebody works against us.
	struggleCount = 5
	struggleTime  = 10 * time.Second
)

// upkeep bounds what is said about repairs.
type upkeep struct {
	recent [struggleCount]time.Time // the newest looks that repaired something
	next   int
	last   time.Time // of those looks
	what   string    // repaired then
	said   time.Time // when the log was told
	unsaid int
}

// noteRepair counts one repair and logs it, at most one line a second.
func (r *Routes) noteRepair(now time.Time, kind, what string) {
	if r.repairs == nil {
		r.repairs = make(Repairs)
	}
	r.repairs[kind]++
	u := &r.upkeep
	u.what = what
	if u.last != now {
		u.last = now
		u.recent[u.next] = now
		u.next = (u.next + 1) % struggleCount
	}
	if now.Sub(u.said) < time.Second {
		u.unsaid++
		return
	}
	r.log.Warn("put back what somebody changed in the kernel", "what", what, "others", u.unsaid)
	u.said, u.unsaid = now, 0
}

// struggle is a fault while repairs are undone again and again.
func (u *upkeep) struggle(now time.Time) []string {
	oldest := u.recent[u.next]
	if oldest.IsZero() || now.Sub(oldest) > struggleTime {
		return nil
	}
	what, _, _ := strings.Cut(u.what, " was ")
	return []string{fmt.Sprintf("somebody keeps changing what this appliance needs in the kernel (last: %s): have them leave it alone (systemd-networkd: ManageForeignRoutingPolicyRules=no, ManageForeignRoutes=no)", what)}
}
