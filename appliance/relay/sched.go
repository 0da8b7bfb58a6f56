package relay

import (
	"runtime"
	"sync"
)

// Values of Conn.schedule.
const (
	schedIdle uint32 = iota
	schedQueued
	schedRunning
	schedAgain // an event came while running
)

// bulkShare: one turn in so many rebuilds a leg that nobody has asked for yet.
const bulkShare = 256

// scheduler runs connections on a few workers. A connection is run by one worker
// at a time, and runs again if an event came meanwhile.
type scheduler struct {
	mu     sync.Mutex // leaf
	cond   *sync.Cond
	urgent ring // events of live connections
	bulk   ring // after a takeover: legs to rebuild that nobody asked for yet
	// bulkBusy: one worker is at the bulk queue; one is enough, the other has to be
	// there for the connections that are alive already.
	bulkBusy bool
	busy     int // workers that do not wait
	turn     uint
	closed   bool
	wg       sync.WaitGroup
}

func newScheduler(workers int) *scheduler {
	s := &scheduler{busy: workers}
	s.cond = sync.NewCond(&s.mu)
	s.wg.Add(workers)
	for range workers {
		go s.work()
	}
	return s
}

// add schedules c. It may be called with netstack's locks held.
func (s *scheduler) add(c *Conn, bulk bool) {
	for {
		switch st := c.schedule.Load(); st {
		case schedIdle:
			if c.schedule.CompareAndSwap(schedIdle, schedQueued) {
				s.push(c, bulk)
				return
			}
		case schedRunning:
			if c.schedule.CompareAndSwap(schedRunning, schedAgain) {
				return
			}
		default:
			return
		}
	}
}

// hasten moves a connection that waits in the bulk queue to the front; the bulk
// entry is skipped when its turn comes.
func (s *scheduler) hasten(c *Conn) {
	if c.schedule.Load() == schedQueued {
		s.push(c, false)
		return
	}
	s.add(c, false)
}

func (s *scheduler) push(c *Conn, bulk bool) {
	s.mu.Lock()
	if bulk {
		s.bulk.push(c)
	} else {
		s.urgent.push(c)
	}
	s.mu.Unlock()
	s.cond.Signal()
}

// next waits for a connection to run; bulk tells which queue it is from. It
// returns nil at the end.
func (s *scheduler) next() (c *Conn, bulk bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		// Every bulkShare-th turn is the bulk queue's, or busy connections would
		// keep the idle ones without endpoints for as long as they are busy.
		s.turn++
		if s.turn%bulkShare != 0 || s.bulkBusy || s.bulk.n == 0 {
			if c := s.urgent.pop(); c != nil {
				return c, false
			}
		}
		if !s.bulkBusy {
			if c := s.bulk.pop(); c != nil {
				s.bulkBusy = true
				return c, true
			}
		}
		if s.closed {
			return nil, false
		}
		s.busy--
		s.cond.Wait()
		s.busy++
	}
}

// idle reports whether all workers wait, and for something that has yet to come.
func (s *scheduler) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.busy == 0 && s.urgent.n == 0 && (s.bulk.n == 0 || s.bulkBusy)
}

// bulkDone lets a worker take the next of the bulk queue. It yields first: a
// rebuild runs on without blocking, and the runtime would let it for 10 ms while
// packets of live connections wait.
func (s *scheduler) bulkDone() {
	runtime.Gosched()
	s.mu.Lock()
	s.bulkBusy = false
	more := s.bulk.n > 0
	s.mu.Unlock()
	if more {
		s.cond.Signal()
	}
}

func (s *scheduler) work() {
	defer s.wg.Done()
	for {
		c, bulk := s.next()
		if c == nil {
			return
		}
		s.run(c)
		if bulk {
			s.bulkDone()
		}
	}
}

func (s *scheduler) run(c *Conn) {
	if !c.schedule.CompareAndSwap(schedQueued, schedRunning) {
		return // hastened: it ran already
	}
	c.bulk.Store(false)
	s.leave(c, c.step())
}

// leave ends what run began: the connection waits for its next event, or for its turn.
func (s *scheduler) leave(c *Conn, again bool) {
	for {
		if again || c.schedule.Load() == schedAgain {
			c.schedule.Store(schedQueued)
			s.push(c, false)
			return
		}
		if c.schedule.CompareAndSwap(schedRunning, schedIdle) {
			return
		}
	}
}

func (s *scheduler) close() {
	s.mu.Lock()
	s.closed = true
	s.urgent, s.bulk = ring{}, ring{}
	s.mu.Unlock()
	s.cond.Broadcast()
	s.wg.Wait()
}

// ring is a growing FIFO. Its length is bounded by twice the number of
// connections (queued once, or once in each queue after hasten).
type ring struct {
	buf  []*Conn
	head int
	n    int
}

func (r *ring) push(c *Conn) {
	if r.n == len(r.buf) {
		grown := make([]*Conn, max(64, 2*len(r.buf)))
		for i := range r.n {
			grown[i] = r.buf[(r.head+i)%len(r.buf)]
		}
		r.buf, r.head = grown, 0
	}
	r.buf[(r.head+r.n)%len(r.buf)] = c
	r.n++
}

func (r *ring) pop() *Conn {
	if r.n == 0 {
		return nil
	}
	c := r.buf[r.head]
	r.buf[r.head] = nil
	r.head = (r.head + 1) % len(r.buf)
	r.n--
	return c
}
