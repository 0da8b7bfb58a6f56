package steer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"lockstep/splice"
)

// Why a connection is not entered, or nothing passed on.
var (
	ErrFull       = errors.New("steer: all flows are taken")
	errNotSteered = errors.New("steer: packets of this connection are not steered")
	errLost       = errors.New("steer: a flow could not be taken away, so nothing is passed on any more")
)

// Flows are the connections whose plain segments the programs pass on from NIC to NIC, as package splice would.
//
// What is known of a flow lies in an array, under a lock of its own. A second array, on, has the generation of the flow that may be
// passed on at that place, which the programs read with the lock held: so a flow that is taken off it, and then read under its lock, has
// been passed on for the last time, but for packets whose numbers are already in what is read. The hash table by which a program finds
// the place is a hint: what it says is compared.
type Flows struct {
	state, on, keys, until *ebpf.Map
	turn                   *ebpf.Map // an array of maps, see Wait
	inner                  *ebpf.Map
	ways                   ways

	mu   sync.Mutex // guards what follows: a leaf
	free []uint32
	gen  uint32
	lost bool  // see errLost
	life *life // says until when; nil when closed
}

// ways are where packets go that the hook Out steers: for all others the packet filter may have something to do on the way out.
type ways struct{ from, to map[netip.AddrPort]bool }

func (c *Config) ways() ways {
	w := ways{map[netip.AddrPort]bool{}, map[netip.AddrPort]bool{}}
	for _, a := range c.From {
		w.from[a] = true
	}
	for _, a := range c.To {
		w.to[a] = true
	}
	return w
}

// steer reports whether what a connection's ends send is steered on its way out.
func (w *ways) steer(a *splice.Addrs) bool { return w.from[a.VIP] && w.to[a.Server] }

// flowMaps are the file descriptors that a program is assembled with.
type flowMaps struct{ state, on, keys, until int }

// Entry names a flow. The zero value is none.
type Entry struct{ place, gen uint32 }

// Is reports whether it is one.
func (e Entry) Is() bool { return e.gen != 0 }

// flowType is, in each value, the kernel's struct bpf_spin_lock, by which the verifier knows where in a value it lies.
func flowType() btf.Type {
	word := &btf.Int{Name: "unsigned int", Size: 4}
	lock := &btf.Struct{Name: "bpf_spin_lock", Size: 4, Members: []btf.Member{{Name: "val", Type: word}}}
	rest := &btf.Array{Index: word, Type: word, Nelems: (flowLen - 4) / 4}
	return &btf.Struct{Name: "lockstep_flow", Size: flowLen, Members: []btf.Member{
		{Name: "lock", Type: lock}, {Name: "rest", Type: rest, Offset: btf.Bits(32)},
	}}
}

func newFlows(c *Config) (f *Flows, err error) {
	if err := sameClock(timeOffsets); err != nil {
		return nil, err
	}
	n := c.Flows
	f = &Flows{ways: c.ways()}
	for i := range uint32(n) {
		f.free = append(f.free, uint32(n)-1-i)
	}
	places := uint32(n)
	for _, m := range []struct {
		at   **ebpf.Map
		spec ebpf.MapSpec
	}{
		{&f.state, ebpf.MapSpec{Name: "lockstep_flows", Type: ebpf.Array, KeySize: 4, ValueSize: flowLen, MaxEntries: places,
			Key: &btf.Int{Name: "unsigned int", Size: 4}, Value: flowType()}},
		{&f.on, ebpf.MapSpec{Name: "lockstep_on", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: places}},
		{&f.keys, ebpf.MapSpec{Name: "lockstep_keys", Type: ebpf.Hash, KeySize: flowKeyLen, ValueSize: 8, MaxEntries: 2 * places}},
		{&f.until, leaseSpec()},
		{&f.inner, ebpf.MapSpec{Name: "lockstep_inner", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}},
		{&f.turn, ebpf.MapSpec{Name: "lockstep_turn", Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1,
			InnerMap: &ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}}},
	} {
		if *m.at, err = ebpf.NewMap(&m.spec); err != nil {
			return nil, errors.Join(fmt.Errorf("make the table %s: %w", m.spec.Name, err), f.close())
		}
	}
	if f.life, err = live(f.until); err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

func (f *Flows) maps() flowMaps {
	return flowMaps{state: f.state.FD(), on: f.on.FD(), keys: f.keys.FD(), until: f.until.FD()}
}

func (f *Flows) close() error {
	var errs []error
	f.mu.Lock()
	if f.life != nil {
		errs = append(errs, f.life.close())
		f.life = nil
	}
	f.mu.Unlock()
	for _, m := range []*ebpf.Map{f.state, f.on, f.keys, f.until, f.inner, f.turn} {
		errs = append(errs, m.Close()) // nil ones may be closed
	}
	return errors.Join(errs...)
}

// Enter lets the programs pass a connection on, from now on until Leave.
func (f *Flows) Enter(o *splice.Offloaded) (Entry, error) {
	if !f.ways.steer(&o.Addrs) {
		return Entry{}, errNotSteered
	}
	e, err := f.take()
	if err != nil {
		return Entry{}, err
	}
	v := encodeFlow(o)
	keys := flowKeys(&o.Addrs)
	err = f.state.Update(e.place, v[:], ebpf.UpdateLock)
	if err == nil {
		err = f.on.Put(e.place, e.gen)
	}
	for i := 0; err == nil && i < len(keys); i++ {
		err = f.keys.Put(keys[i][:], uint64Of(e))
	}
	if err != nil {
		err = fmt.Errorf("enter a flow: %w", err)
		return Entry{}, errors.Join(err, f.Leave(e, o))
	}
	return e, nil
}

// uint64Of is an entry as the value of the hash table: two words.
func uint64Of(e Entry) []byte {
	return binary.NativeEndian.AppendUint32(binary.NativeEndian.AppendUint32(nil, e.place), e.gen)
}

func (f *Flows) take() (Entry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.free) == 0 {
		return Entry{}, ErrFull
	}
	e := Entry{place: f.free[len(f.free)-1]}
	f.free = f.free[:len(f.free)-1]
	if f.gen++; f.gen == 0 { // none
		f.gen++
	}
	e.gen = f.gen
	return e, nil
}

// Len is how many there are.
func (f *Flows) Len() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return int(f.state.MaxEntries()) - len(f.free)
}

// Read fills in what has been seen of a flow. The programs may go on.
func (f *Flows) Read(e Entry, o *splice.Offloaded) error {
	var v [flowLen]byte
	if err := f.state.LookupWithFlags(e.place, v[:], ebpf.LookupLock); err != nil {
		return fmt.Errorf("read a flow: %w", err)
	}
	now, err := ktime()
	if err != nil {
		return err
	}
	decodeFlow(&v, now, o)
	return nil
}

// Leave takes a flow away and fills in what has been seen of it, the last packet included. That the packet leaves the machine is not
// waited for, see Wait.
func (f *Flows) Leave(e Entry, o *splice.Offloaded) error {
	if err := f.on.Put(e.place, uint32(0)); err != nil {
		f.mu.Lock()
		f.lost = true
		f.mu.Unlock()
		return errors.Join(errLost, err, f.Allow(0))
	}
	err := f.Read(e, o)
	keys := flowKeys(&o.Addrs)
	for i := range keys {
		if derr := f.keys.Delete(keys[i][:]); derr != nil && !errors.Is(derr, ebpf.ErrKeyNotExist) {
			err = errors.Join(err, fmt.Errorf("forget a flow: %w", derr))
		}
	}
	f.mu.Lock()
	f.free = append(f.free, e.place)
	f.mu.Unlock()
	return err
}

// Allow lets the programs pass on until a point in time on the clock of Now; 0: not at all. A point in time, not a span: a
// stop between computing and setting must not lengthen it.
func (f *Flows) Allow(until time.Duration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lost && until > 0 {
		return errLost
	}
	if f.life != nil { // else the programs have ended
		f.life.allow(uint64(max(until, 0)))
	}
	return nil
}

// Now is the time that Allow goes by.
func (f *Flows) Now() (time.Duration, error) {
	now, err := ktime()
	return time.Duration(now), err
}

// Wait returns when all programs that run now have ended, and what they have sent has been sent: after Allow(0) nothing leaves the
// machine any more that was passed on. Changing an array of maps waits for a grace period of RCU, in which
// programs run and the kernel does what they have asked for (maybe_wait_bpf_programs of kernel/bpf/syscall.c, net/core/dev.c): the
// kernel promises that who has changed such an array finds no program that works with what was there before.
func (f *Flows) Wait() error {
	if err := f.turn.Put(uint32(0), uint32(f.inner.FD())); err != nil {
		return fmt.Errorf("wait for programs that pass flows on: %w", err)
	}
	return nil
}

// timeOffsets says how the clocks of this process differ from the kernel's.
const timeOffsets = "/proc/self/timens_offsets"

// sameClock looks whether this process has the kernel's monotonic clock, which the programs go by: in a time namespace (time_namespaces(7))
// it may have another.
func sameClock(file string) error {
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil // a kernel without such namespaces
	}
	if err != nil {
		return fmt.Errorf("read the clock's offset: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "monotonic" && (f[1] != "0" || f[2] != "0") {
			return fmt.Errorf("this process is in a time namespace (%s: monotonic clock is %s s off), in which steering: flows is not possible", file, f[1])
		}
	}
	return nil
}

// ktime is what bpf_ktime_get_ns says.
func ktime() (uint64, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0, fmt.Errorf("read the clock: %w", err)
	}
	return uint64(t.Nano()), nil
}

// flowKeys are what a packet of each side is found by.
func flowKeys(a *splice.Addrs) (keys [2][flowKeyLen]byte) {
	for i, d := range [2][2]netip.AddrPort{{a.Client, a.VIP}, {a.Server, a.Local}} {
		k := keys[i][:]
		putFlow(k, 0, 16, 32, d[0], d[1])
		binary.NativeEndian.PutUint32(k[36:], unix.AF_INET)
		if d[0].Addr().Unmap().Is6() {
			binary.NativeEndian.PutUint32(k[36:], unix.AF_INET6)
		}
	}
	return keys
}

func putFlow(b []byte, src, dst, ports int, from, to netip.AddrPort) {
	copy(b[src:src+16], from.Addr().Unmap().AsSlice())
	copy(b[dst:dst+16], to.Addr().Unmap().AsSlice())
	binary.BigEndian.PutUint16(b[ports:], from.Port())
	binary.BigEndian.PutUint16(b[ports+2:], to.Port())
}

func encodeFlow(o *splice.Offloaded) (v [flowLen]byte) {
	a := &o.Addrs
	ways := [2][4]netip.AddrPort{{a.Client, a.VIP, a.Local, a.Server}, {a.Server, a.Local, a.VIP, a.Client}}
	for i, w := range ways {
		d, e := v[flowDirs+i*dirLen:], &o.Ends[i]
		addr, port := o.AddrDiff, o.PortDiff
		if splice.Side(i) == splice.Server {
			addr, port = ^addr, ^port
		}
		putFlow(d, dirSrc, dirDst, dirPorts, w[0], w[1])
		putFlow(d, dirToSrc, dirToDst, dirToPorts, w[2], w[3])
		put := func(at int, n uint32) { binary.NativeEndian.PutUint32(d[at:], n) }
		put(dirAddrDiff, uint32(be(addr)))
		put(dirPortDiff, uint32(be(port)))
		put(dirHeadDiff, uint32(be(addr))+uint32(be(^uint16(2<<8)))) // of two hops: the complement of what they take off
		put(dirScale, uint32(e.Scale))
		if o.TS {
			put(dirStamped, 1)
		}
		put(dirNext, e.Next)
		put(dirAck, e.Ack)
		put(dirEdge, e.Edge)
		put(dirTSVal, e.TSVal)
		put(dirTSRecent, e.Echoed)
		put(dirWindow, uint32(e.Window))
		binary.NativeEndian.PutUint64(d[dirBytes:], e.Bytes)
		binary.NativeEndian.PutUint64(d[dirDeliv:], e.Delivered)
		binary.NativeEndian.PutUint64(d[dirSegs:], e.Segments)
	}
	return v
}

// decodeFlow reads what changes.
func decodeFlow(v *[flowLen]byte, now uint64, o *splice.Offloaded) {
	ago := func(b []byte) time.Duration {
		at := binary.NativeEndian.Uint64(b)
		if at == 0 {
			return -1
		}
		return max(time.Duration(now-at), 0)
	}
	for i := range o.Ends {
		d, e := v[flowDirs+i*dirLen:], &o.Ends[i]
		get := func(at int) uint32 { return binary.NativeEndian.Uint32(d[at:]) }
		e.Next, e.Ack, e.Edge, e.TSVal, e.Echoed = get(dirNext), get(dirAck), get(dirEdge), get(dirTSVal), get(dirTSRecent)
		e.Window = uint16(get(dirWindow))
		e.Bytes, e.Delivered = binary.NativeEndian.Uint64(d[dirBytes:]), binary.NativeEndian.Uint64(d[dirDeliv:])
		e.Segments, e.Heard = binary.NativeEndian.Uint64(d[dirSegs:]), ago(d[dirHeard:])
	}
	o.Moved = ago(v[flowMoved:])
}
