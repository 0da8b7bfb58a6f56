package lab

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Direction of frames on a port.
type Direction int

const (
	FromHost Direction = iota // what the host sends
	ToHost                    // what the host receives
)

// Faults of one direction of a port. Probabilities are within 0 to 1, each frame decided by
// itself with the port's seeded generator.
type Faults struct {
	Loss      float64
	Duplicate float64
	// Reorder holds a frame back for ReorderBy (0: 1 ms) while later ones overtake it.
	Reorder   float64
	ReorderBy time.Duration
	// Delay of every frame, plus an evenly distributed share of Jitter. Neither changes the
	// order.
	Delay, Jitter time.Duration
	// Rate in bits per second; 0 is unlimited. Frames wait their turn.
	Rate int64
	// Queue is how many frames may wait; more are dropped. 0 is 8192, at most 65536.
	Queue int
}

const (
	defaultQueue = 8192
	maxQueue     = 65536
	maxDelay     = time.Minute
)

func (f Faults) check() error {
	for _, p := range []float64{f.Loss, f.Duplicate, f.Reorder} {
		if !(p >= 0 && p <= 1) {
			return fmt.Errorf("faults: probability %v is not within 0 to 1", p)
		}
	}
	for _, d := range []time.Duration{f.Delay, f.Jitter, f.ReorderBy} {
		if d < 0 || d > maxDelay {
			return fmt.Errorf("faults: delay %v is not within 0 to %v", d, maxDelay)
		}
	}
	if f.Rate < 0 {
		return fmt.Errorf("faults: rate %d is negative", f.Rate)
	}
	if f.Queue < 0 || f.Queue > maxQueue {
		return fmt.Errorf("faults: queue %d is not within 0 to %d", f.Queue, maxQueue)
	}
	return nil
}

// FrameCounters of one direction of a port since its creation.
type FrameCounters struct {
	Passed, Lost, Filtered, Duplicated, Reordered, Overflowed uint64
}

// conduit is one direction of a port: it decides each frame's fate and hands it on, at once or
// later. Frames that wait are copies owned by the conduit.
type conduit struct {
	out func(frame []byte) // called without the lock, never concurrently with itself by run

	mu     sync.Mutex
	faults Faults
	filter func([]byte) bool
	rng    *rand.Rand
	queue  frameHeap
	serial uint64    // order of arrival, breaks ties of time
	last   time.Time // release time of the latest frame that kept its order
	busy   bool      // run is handing a frame on: a newer one must not slip past it
	count  FrameCounters
	closed bool

	wake chan struct{} // capacity 1: the head of the queue changed
	quit chan struct{}
	done chan struct{}
}

func newConduit(seed uint64, f Faults, out func([]byte)) *conduit {
	c := &conduit{
		out:    out,
		faults: f,
		rng:    rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15)),
		wake:   make(chan struct{}, 1),
		quit:   make(chan struct{}),
		done:   make(chan struct{}),
	}
	go c.run()
	return c
}

func (c *conduit) set(f Faults) {
	c.mu.Lock()
	c.faults = f
	c.mu.Unlock()
}

func (c *conduit) setFilter(f func([]byte) bool) {
	c.mu.Lock()
	c.filter = f
	c.mu.Unlock()
}

func (c *conduit) counters() FrameCounters {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count
}

// put takes a frame; the caller keeps the memory.
func (c *conduit) put(frame []byte) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	if c.filter != nil && !c.filter(frame) {
		c.count.Filtered++
		c.mu.Unlock()
		return
	}
	f := &c.faults
	if f.Loss > 0 && c.rng.Float64() < f.Loss {
		c.count.Lost++
		c.mu.Unlock()
		return
	}
	copies := 1
	if f.Duplicate > 0 && c.rng.Float64() < f.Duplicate {
		c.count.Duplicated++
		copies = 2
	}
	held := f.Reorder > 0 && c.rng.Float64() < f.Reorder
	if held {
		c.count.Reordered++
	}
	if !held && f.Delay == 0 && f.Jitter == 0 && f.Rate == 0 && len(c.queue) == 0 && !c.busy {
		c.count.Passed += uint64(copies)
		c.mu.Unlock()
		for range copies {
			c.out(frame)
		}
		return
	}
	for range copies {
		c.enqueue(frame, held)
	}
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// enqueue is called with the lock held.
func (c *conduit) enqueue(frame []byte, held bool) {
	f := &c.faults
	limit := f.Queue
	if limit == 0 {
		limit = defaultQueue
	}
	if len(c.queue) >= limit {
		c.count.Overflowed++
		return
	}
	now := time.Now()
	at := now.Add(f.Delay)
	if f.Jitter > 0 {
		at = at.Add(time.Duration(c.rng.Int64N(int64(f.Jitter) + 1)))
	}
	if f.Rate > 0 {
		start := now
		if c.last.After(now) {
			start = c.last
		}
		wire := time.Duration(float64(len(frame)) * 8 / float64(f.Rate) * float64(time.Second))
		if t := start.Add(wire); t.After(at) {
			at = t
		}
	}
	if at.Before(c.last) {
		at = c.last
	}
	if held {
		by := f.ReorderBy
		if by == 0 {
			by = time.Millisecond
		}
		at = at.Add(by)
	} else {
		c.last = at
	}
	c.serial++
	heap.Push(&c.queue, waiting{at: at, serial: c.serial, frame: append([]byte(nil), frame...)})
}

// run hands frames on when their time has come.
func (c *conduit) run() {
	defer close(c.done)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		c.mu.Lock()
		wait := time.Hour
		var frame []byte
		if len(c.queue) > 0 {
			wait = time.Until(c.queue[0].at)
			if wait <= 0 {
				frame = heap.Pop(&c.queue).(waiting).frame
				c.busy = true
				c.count.Passed++
			}
		}
		c.mu.Unlock()
		if frame != nil {
			c.out(frame)
			c.mu.Lock()
			c.busy = false
			c.mu.Unlock()
			continue
		}
		// The runtime's poller sleeps in whole milliseconds; the last stretch is slept in the
		// kernel so that delays well below a millisecond are what they say.
		if wait < 1500*time.Microsecond {
			ts := unix.NsecToTimespec(int64(wait))
			_ = unix.Nanosleep(&ts, nil) // cut short by a signal: the loop looks again
			select {
			case <-c.quit:
				return
			default:
			}
			continue
		}
		timer.Reset(wait - time.Millisecond)
		select {
		case <-c.wake:
		case <-timer.C:
		case <-c.quit:
			return
		}
	}
}

func (c *conduit) close() {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	c.closed = true
	c.queue = nil
	c.mu.Unlock()
	close(c.quit)
	<-c.done
}

// waiting is a frame with its time; frameHeap has the earliest first.
type waiting struct {
	at     time.Time
	serial uint64
	frame  []byte
}

type frameHeap []waiting

func (h frameHeap) Len() int { return len(h) }
func (h frameHeap) Less(i, j int) bool {
	if h[i].at.Equal(h[j].at) {
		return h[i].serial < h[j].serial
	}
	return h[i].at.Before(h[j].at)
}
func (h frameHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *frameHeap) Push(x any)   { *h = append(*h, x.(waiting)) }
func (h *frameHeap) Pop() any {
	old := *h
	w := old[len(old)-1]
	old[len(old)-1] = waiting{}
	*h = old[:len(old)-1]
	return w
}
