//go:build amd64

package wrap

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lockstep/wrap/determinant"
	"lockstep/wrap/trace"
)

// Before there is a connection nothing tells when an event of one server is that of the other: reads of the clock
// are counted instead, and each is a determinant. It takes a stop. (GnuTLS makes the generator of a whole server, and of
// all the processes it will fork, of such a time.)

// maxReads is how many times of a process are determinants before it serves a connection; then it has events, too.
const maxReads = 1000

// Otherwise time stands still for a process from one of its events to the next, and its clocks are read without a stop. An
// event is the return of a call that waits. The time of an event is a determinant; it is named by how much of the request the
// process has read by then, since two servers wait unequally often for the same bytes.

// lateAfter is when a process that has had no event gets the present time all the same: it works for long, or waits
// in a way that is not known. That time is its own.
const lateAfter = time.Second

// staleAfter is when the return of another thread than the first counts as an event. That time is the process's own, too.
const staleAfter = 50 * time.Millisecond

// now is the present time of this machine, as the program's time namespace has it.
func now(monotonic int64) trace.Clock {
	var real, mono unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_REALTIME, &real) // they exist, and the addresses are right
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono)
	return trace.Clock{Real: real.Nano(), Mono: mono.Nano() + monotonic}
}

// starting sets whether a process's reads of the clock are counted.
func (s *supervisor) starting(p *process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.starting = p.serves.of == (determinant.Connection{}) && p.places[determinant.Clock] < maxReads
}

// startRead gives a process that serves nobody yet the time of a read. Threads other than the first have times of their own.
func (s *supervisor) startRead(t *trace.Task) {
	p := of(t.Proc)
	if !p.starting { // only this thread sets it
		return
	}
	c := now(s.monotonic)
	if t.First() {
		c = s.agreed(determinant.Name{Instance: p.serves.Number, Path: p.path, Kind: determinant.Clock, Place: p.places[determinant.Clock]}, p, c)
		p.places[determinant.Clock]++
		s.starting(p)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set(t.Proc, p, c)
}

// agreed decides a time.
func (s *supervisor) agreed(n determinant.Name, p *process, c trace.Clock) trace.Clock {
	if got := s.decide(p.serves, n, appendInt(appendInt(nil, c.Real), c.Mono)); len(got) == 16 {
		return trace.Clock{Real: int64(binary.BigEndian.Uint64(got)), Mono: int64(binary.BigEndian.Uint64(got[8:]))}
	}
	return c
}

// waited is an event.
func (s *supervisor) waited(t *trace.Task) {
	if t.First() {
		s.advance(t.Proc)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := of(t.Proc); time.Since(p.at) > staleAfter && !p.starting {
		s.set(t.Proc, p, now(s.monotonic))
	}
}

// advance gives a process the time of an event.
func (s *supervisor) advance(t *trace.Process) {
	p := of(t)
	if p.starting { // only this thread sets it
		s.mu.Lock()
		defer s.mu.Unlock()
		s.set(t, p, p.clock)
		return
	}
	if at, ok := s.consumed(t, p); ok && at != p.position {
		p.position, p.places[determinant.Clock] = at, 0
	}
	n := determinant.Name{Instance: p.serves.Number, Path: p.path, Kind: determinant.Clock, Position: p.position, Place: p.places[determinant.Clock]}
	p.places[determinant.Clock]++
	c := s.agreed(n, p, now(s.monotonic))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set(t, p, c)
}

// set is called with mu held. The monotonic clock never goes back.
func (s *supervisor) set(t *trace.Process, p *process, c trace.Clock) {
	c.Mono, c.Calls = max(c.Mono, p.clock.Mono), p.starting
	p.clock, p.at = c, time.Now()
	_ = t.SetClock(c) // it fails for a process that has just been killed
}

// consumed is how many bytes of its connection's request a process has read. A program that was executed to serve has the
// connection as its input.
func (s *supervisor) consumed(t *trace.Process, p *process) (at uint64, ok bool) {
	if p.socket < 0 {
		return 0, false
	}
	if at, ok = read(t.PID, p.socket, p.serves.of.Client); !ok && p.socket != 0 {
		if at, ok = read(t.PID, 0, p.serves.of.Client); ok {
			p.socket = 0
		}
	}
	return at, ok
}

// States of a connection (linux/tcp_states.h).
const (
	established = 1
	closeWait   = 8
	lastAck     = 9
	closing     = 11
)

// read is how many bytes a client's connection has given to whoever read it.
func read(pid, socket int, client netip.AddrPort) (at uint64, ok bool) {
	borrow(pid, socket, func(fd int) {
		if c, is := connection(fd); !is || c.Client != client {
			return // the number is another descriptor's now
		}
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return
		}
		unread, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
		if err != nil {
			return
		}
		switch at = info.Bytes_received - uint64(unread); info.State {
		case established:
			ok = true
		case closeWait, lastAck, closing: // the client's FIN counts as a byte
			at, ok = at-1, true
		}
	})
	return at, ok
}

// keepTime gives processes that have no events the time.
func (s *supervisor) keepTime() (stop func()) {
	quit := make(chan struct{})
	var joined sync.WaitGroup
	joined.Go(func() {
		tick := time.NewTicker(lateAfter / 4)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-quit:
				return
			}
			s.mu.Lock()
			for t, p := range s.processes {
				if time.Since(p.at) > lateAfter && !p.starting {
					s.set(t, p, now(s.monotonic))
				}
			}
			s.mu.Unlock()
		}
	})
	return func() {
		close(quit)
		joined.Wait()
	}
}

// shown is what a process's clocks show, and since when.
func (s *supervisor) shown(p *process) (c trace.Clock, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return p.clock, p.at
}

// time answers a clock's system call by what the process's clocks show. Clocks of processor time are the kernel's.
func (s *supervisor) time(t *trace.Task) (trace.Next, int64) {
	if t.Call() != unix.SYS_CLOCK_GETTIME || known(int32(t.Arg(0))) {
		s.startRead(t)
	}
	c, _ := s.shown(of(t.Proc))
	const second = 1e9
	switch t.Call() {
	case unix.SYS_TIME:
		if at := t.Arg(0); at != 0 && t.Write(at, little(c.Real/second)) != nil {
			return trace.Answer, -int64(unix.EFAULT)
		}
		return trace.Answer, c.Real / second
	case unix.SYS_GETTIMEOFDAY:
		if at := t.Arg(0); at != 0 && t.Write(at, little(c.Real/second, c.Real%second/1000)) != nil {
			return trace.Answer, -int64(unix.EFAULT)
		}
		if at := t.Arg(1); at != 0 && t.Write(at, little(0)) != nil {
			return trace.Answer, -int64(unix.EFAULT)
		}
		return trace.Answer, 0
	}
	shown, clock := c.Mono, int32(t.Arg(0))
	if !known(clock) {
		return trace.Watch, 0
	}
	if clock == unix.CLOCK_REALTIME || clock == unix.CLOCK_REALTIME_COARSE {
		shown = c.Real
	}
	if t.Write(t.Arg(1), little(shown/second, shown%second)) != nil {
		return trace.Answer, -int64(unix.EFAULT)
	}
	return trace.Answer, 0
}

// known says whether a clock shows the time, and not that of a processor.
func known(clock int32) bool {
	switch clock {
	case unix.CLOCK_REALTIME, unix.CLOCK_REALTIME_COARSE, unix.CLOCK_MONOTONIC, unix.CLOCK_MONOTONIC_RAW, unix.CLOCK_MONOTONIC_COARSE, unix.CLOCK_BOOTTIME:
		return true
	}
	return false
}

// little has numbers as the program's memory has them.
func little(numbers ...int64) []byte {
	var b []byte
	for _, n := range numbers {
		b = binary.LittleEndian.AppendUint64(b, uint64(n))
	}
	return b
}

// processorTime makes what a clock of processor time has shown a determinant.
func (s *supervisor) processorTime(t *trace.Task) {
	var b [16]byte
	if t.Result() != 0 || t.Read(t.Arg(1), b[:]) != nil {
		return
	}
	if got := s.ask(of(t.Proc), determinant.CPU, b[:]); len(got) == len(b) {
		_ = t.Write(t.Arg(1), got) // the kernel has just written there
	}
}
