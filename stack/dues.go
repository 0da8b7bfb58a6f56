package stack

import "time"

// dues is what is to be looked at later, by a goroutine of its own (whenDue). For each of a few delays it has a queue, in which
// what came first is due first, so that ten thousand need no timer each. Who is queued again takes the place of what it was queued for
// before: its turn says which item counts, an item of another turn is out of date. The lock is its owner's.
type dues[T any] struct {
	delays []time.Duration
	queues [][]due[T]    // of what is due at once, then by delay
	kick   chan struct{} // something may be due earlier than the goroutine knows
}

type due[T any] struct {
	who  T
	turn uint32
	at   time.Duration
}

// atOnce is the delay of what need not wait, the others are places in delays.
const atOnce = -1

const (
	// dueBatch is how many are looked at at a time, duePause what lies between: so many that a second is enough for ten
	// thousand.
	dueBatch = 200
	duePause = 20 * time.Millisecond
)

func newDues[T any](delays []time.Duration) dues[T] {
	return dues[T]{delays: delays, queues: make([][]due[T], 1+len(delays)), kick: make(chan struct{}, 1)}
}

// add queues who for that turn.
func (d *dues[T]) add(who T, turn uint32, delay int, now time.Duration) {
	if delay != atOnce {
		now += d.delays[delay]
	}
	d.queues[1+delay] = append(d.queues[1+delay], due[T]{who, turn, now})
	d.wake()
}

// wake lets the goroutine look. It takes no lock.
func (d *dues[T]) wake() {
	select {
	case d.kick <- struct{}{}:
	default:
	}
}

// take takes up to dueBatch whose time has come, but for those that are out of date, and tells how long it is until the next
// one's; ok is false if there is none.
func (d *dues[T]) take(now time.Duration, current func(due[T]) bool) (items []due[T], wait time.Duration, ok bool) {
	for i, q := range d.queues {
		n := 0
		for n < len(q) && q[n].at <= now && len(items) < dueBatch {
			if current(q[n]) {
				items = append(items, q[n])
			}
			q[n] = due[T]{} // nothing is kept alive by it
			n++
		}
		if d.queues[i] = q[n:]; len(q) == n {
			d.queues[i] = nil
			continue
		}
		if w := max(q[n].at-now, duePause); !ok || w < wait {
			wait, ok = w, true
		}
	}
	return items, wait, ok
}

// whenDue runs turn, until Close, whenever there is a kick and when it has said that something will be due. It says how many it has
// looked at, too.
func (e *Engine) whenDue(kick <-chan struct{}, turn func() (n int, wait time.Duration, ok bool)) {
	defer e.wg.Done()
	t := time.NewTimer(time.Hour)
	defer t.Stop()
	for {
		select {
		case <-e.done:
			return
		case <-kick:
		case <-t.C:
		}
		n, wait, ok := turn()
		if n == dueBatch { // whatever kicks meanwhile: what leaves in a second is bounded
			select {
			case <-e.done:
				return
			case <-time.After(duePause):
			}
		}
		if ok {
			t.Reset(wait)
		}
	}
}
