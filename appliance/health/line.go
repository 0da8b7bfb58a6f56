package health

import (
	"context"
	"net"
	"slices"
	"sync/atomic"
	"time"
)

// A line is one process of a server, as far as idle connections to it show: it goes on as
// long as each connection was opened while one before it was still there, which is proved
// by an answer on that one after the new one was open. When the last one ends, so does the
// line: the process has died, or nothing shows any more that it has not.
//
// So a connection of a client that was dialled while a line went on is to the line's
// process, if one process serves the port at a time; and if the server still answers on a
// connection of the line after the client's has ended, it was not the process's death that
// has ended it. In which order the ends arrive, and when they are read, does not matter.

// line is the newest one of a server. Canary.mu guards it.
type line struct {
	id      uint64 // of all that this server had; 0: none
	last    uint64 // the newest id
	held    []*held
	begun   time.Time
	young   int      // how many lines in a row the server has ended early
	let     []uint64 // lines that we have ended
	looked  bool     // since Resume there was a try
	waiting []func() // to be called when there was
}

// letMax is how many lines that we have ended are known as such.
const letMax = 64

// held is one idle connection.
type held struct {
	conn    net.Conn
	turn    chan struct{} // cap 1: who asks on it
	asked   atomic.Uint64 // questions so far
	askedAt time.Time     // of the newest; with turn
	alive   bool          // what it has shown; with turn
}

// askSpacing is the least time between two questions on one connection. Linux answers one
// every half second (tcp_invalid_ratelimit).
const askSpacing = 520 * time.Millisecond

// letGo ends the line by ourselves.
func (l *line) letGo() {
	if l.id != 0 {
		l.let = append(l.let, l.id)
		l.let = l.let[max(0, len(l.let)-letMax):]
	}
	l.id, l.held, l.looked = 0, nil, false
}

// leave takes a connection that has ended out of the line.
func (l *line) leave(h *held) {
	i := slices.Index(l.held, h)
	if i < 0 {
		return
	}
	if l.held = slices.Delete(l.held, i, i+1); len(l.held) == 0 {
		if l.id = 0; time.Since(l.begun) < canaryYoung {
			l.young++
		} else {
			l.young = 0
		}
	}
}

// tell returns who waits.
func (l *line) tell() []func() {
	wake := l.waiting
	l.looked, l.waiting = true, nil
	return wake
}

func call(all []func()) {
	for _, f := range all {
		f()
	}
}

// join makes a connection that is open part of the server's line, or the beginning of
// another one.
func (c *Canary) join(live context.Context, server int, conn net.Conn) *held {
	h := &held{conn: conn, turn: make(chan struct{}, 1)}
	for {
		c.mu.Lock()
		l := &c.lines[server]
		before := slices.Clone(l.held)
		if live.Err() != nil {
			c.mu.Unlock()
			return h
		}
		if len(before) == 0 {
			l.last++
			l.id, l.begun, l.held = l.last, time.Now(), []*held{h}
			c.mu.Unlock()
			c.tried(live, server)
			return h
		}
		c.mu.Unlock()
		for _, x := range before {
			if !c.proves(live, x) {
				c.mu.Lock()
				l.leave(x)
				c.mu.Unlock()
				x.conn.Close()
				continue
			}
			c.mu.Lock()
			if joined := live.Err() == nil && slices.Contains(l.held, x); joined {
				l.held = append(l.held, h)
				c.mu.Unlock()
				return h
			}
			c.mu.Unlock()
		}
	}
}

// tried notes that there was a try to open a connection.
func (c *Canary) tried(live context.Context, server int) {
	c.mu.Lock()
	var wake []func()
	if live.Err() == nil {
		wake = c.lines[server].tell()
	}
	c.mu.Unlock()
	call(wake)
}

// Line names the process that a connection dialled from now on is to; 0: nothing would
// show that it is still the same.
func (c *Canary) Line(server int) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := &c.lines[server]
	if l.young > 1 && time.Since(l.begun) < canaryYoung {
		return 0 // a server that ends idle connections at once
	}
	return l.id
}

// Ready reports whether there is no use in waiting before a server is dialled. Else wake
// is called when it is so.
func (c *Canary) Ready(server int, wake func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := &c.lines[server]
	if l.id != 0 || l.looked || c.off {
		return true
	}
	l.waiting = append(l.waiting, wake)
	return false
}

// Fate is what is known of a process.
type Fate uint8

const (
	Dead    Fate = iota // its connections have ended, or it does not answer on them
	Alive               // it has answered after the question was put
	Unknown             // we have let go of it, or never had a connection to it
)

// Fate asks the process of a line whether it lives now.
func (c *Canary) Fate(ctx context.Context, server int, id uint64) Fate {
	c.mu.Lock()
	l := &c.lines[server]
	if id == 0 || slices.Contains(l.let, id) {
		c.mu.Unlock()
		return Unknown
	}
	var all []*held
	if l.id == id {
		all = slices.Clone(l.held)
	}
	c.mu.Unlock()
	slices.SortFunc(all, func(a, b *held) int { return int(a.asked.Load()) - int(b.asked.Load()) })
	for _, h := range all {
		if c.proves(ctx, h) {
			return Alive
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if ctx.Err() != nil || slices.Contains(l.let, id) {
		return Unknown
	}
	return Dead
}

// proves reports whether the server answers on a connection to a question that is asked
// now. Who comes while another one waits for its turn shares the answer.
func (c *Canary) proves(ctx context.Context, h *held) bool {
	before := h.asked.Load()
	select {
	case h.turn <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	defer func() { <-h.turn }()
	if h.asked.Load() > before {
		return h.alive
	}
	if in := askSpacing - time.Since(h.askedAt); in > 0 && h.asked.Load() > 0 {
		select {
		case <-time.After(in):
		case <-ctx.Done():
			return false
		}
	}
	h.asked.Add(1)
	within, cancel := context.WithTimeout(ctx, c.proof)
	h.alive = c.ask(within, h.conn)
	cancel()
	h.askedAt = time.Now()
	if !h.alive {
		// Its answer may still come, and would be taken for one to the next question.
		h.conn.Close()
	}
	return h.alive
}
