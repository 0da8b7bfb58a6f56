package steer

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// When the process is killed its programs end with its descriptors; but so do its sockets, in an order that is the kernel's, and who finds
// those closed takes over. So the programs look at a word that the kernel itself changes before: a robust futex (get_robust_list(2)),
// which a thread of the process holds, is marked when that thread dies, and no descriptor is closed before all threads have died.

// lease is what the programs go by: a page of theirs that the process can write to as well.
type lease struct {
	until uint64 // CLOCK_MONOTONIC, ns: nothing is passed on from then on
	owner uint32 // the thread that lives as long as the process; 0: none. A futex
	_     uint32
	robust
}

// robust is the list of what a thread holds: struct robust_list_head of linux/futex.h, and its only entry.
type robust struct {
	first, offset, pending uintptr
	next                   uintptr // of the entry: back to the head
}

const (
	leaseUntil = int16(unsafe.Offsetof(lease{}.until))
	leaseOwner = int16(unsafe.Offsetof(lease{}.owner))
	leaseLen   = uint32(unsafe.Sizeof(lease{}))

	ownerDied = 0x40000000 // FUTEX_OWNER_DIED
)

func leaseSpec() ebpf.MapSpec {
	return ebpf.MapSpec{Name: "lockstep_until", Type: ebpf.Array, KeySize: 4, ValueSize: leaseLen, MaxEntries: 1, Flags: unix.BPF_F_MMAPABLE}
}

// life is the thread.
type life struct {
	page []byte
	stop chan struct{}
	done chan struct{}
}

// live begins it.
func live(m *ebpf.Map) (l *life, err error) {
	l = &life{stop: make(chan struct{}), done: make(chan struct{})}
	if l.page, err = unix.Mmap(m.FD(), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map the lease of flows: %w", err)
	}
	began := make(chan error)
	go l.hold(began)
	if err := <-began; err != nil {
		<-l.done
		return nil, errors.Join(fmt.Errorf("hold the lease of flows: %w", err), unix.Munmap(l.page))
	}
	return l, nil
}

func (l *life) lease() *lease { return (*lease)(unsafe.Pointer(&l.page[0])) }

func (l *life) allow(until uint64) { atomic.StoreUint64(&l.lease().until, until) }

// hold is the thread. It never unlocks: the thread ends with it.
func (l *life) hold(began chan<- error) {
	defer close(l.done)
	runtime.LockOSThread()
	p := l.lease()
	err := p.take()
	began <- err
	if err != nil {
		return
	}
	<-l.stop
	atomic.StoreUint32(&p.owner, 0)
	_ = setRobust(0) // the page goes: an error would mean that the kernel never had the list
}

// take makes the calling thread the owner, for the rest of its life.
func (p *lease) take() error {
	head, entry := uintptr(unsafe.Pointer(&p.first)), uintptr(unsafe.Pointer(&p.next))
	p.robust = robust{first: entry, offset: uintptr(unsafe.Pointer(&p.owner)) - entry, next: head}
	if err := setRobust(head); err != nil {
		return err
	}
	atomic.StoreUint32(&p.owner, uint32(unix.Gettid()))
	return nil
}

func setRobust(head uintptr) error {
	if _, _, errno := unix.Syscall(unix.SYS_SET_ROBUST_LIST, head, unsafe.Offsetof(robust{}.next), 0); errno != 0 {
		return fmt.Errorf("set_robust_list: %w", errno)
	}
	return nil
}

func (l *life) close() error {
	close(l.stop)
	<-l.done
	return unix.Munmap(l.page)
}
