package health

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// Canary holds idle connections open to each server. When a server's process dies, its
// kernel ends them together with all others. So a process is known to be the one that it
// was, and not one that was started in its place, as long as one of them has not ended:
// see line. There are two for each server, opened one after the other, since a server may
// also end an idle connection because it has waited long enough.
type Canary struct {
	dial  Dial
	again time.Duration // pause before one is opened again
	proof time.Duration // how long a server may take to answer on one
	ask   func(context.Context, net.Conn) bool

	quit   context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	resume chan struct{} // closed by Resume and Stop, made anew by Pause

	mu    sync.Mutex // a leaf: guards all below, and the lines
	live  context.Context
	mute  context.CancelFunc // live ends with Pause, and is nil while paused
	off   bool
	lines []line // by server
}

const (
	// canaryYoung is the age below which an end counts against opening it again soon.
	canaryYoung = 10 * time.Second
	canaryMax   = time.Minute
	// canaries are held to each server.
	canaries = 2
)

// NewCanary makes one that does nothing before Resume. again is the pause before a
// connection that was ended is opened again, proof how long a server may take to show that
// it lives.
func NewCanary(servers []netip.AddrPort, dial Dial, again, proof time.Duration) *Canary {
	c := &Canary{dial: dial, again: again, proof: proof, ask: answers, lines: make([]line, len(servers)), resume: make(chan struct{})}
	c.quit, c.cancel = context.WithCancel(context.Background())
	for i, a := range servers {
		for n := range canaries {
			c.wg.Add(1)
			go func() {
				defer c.wg.Done()
				c.watch(i, a, n)
			}()
		}
	}
	return c
}

// Pause closes the connections: the appliance is mute, or nobody needs them.
func (c *Canary) Pause() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live == nil {
		return
	}
	c.mute()
	c.live, c.resume = nil, make(chan struct{})
	for i := range c.lines {
		c.lines[i].letGo()
	}
}

// Resume opens them.
func (c *Canary) Resume() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live != nil {
		return
	}
	c.live, c.mute = context.WithCancel(c.quit)
	close(c.resume)
}

// Off says that they will not be held any more: nobody is to wait for one.
func (c *Canary) Off() {
	c.Pause()
	c.mu.Lock()
	c.off = true
	var wake []func()
	for i := range c.lines {
		wake = append(wake, c.lines[i].tell()...)
	}
	c.mu.Unlock()
	call(wake)
}

// Stop closes them for good and returns when every goroutine has ended.
func (c *Canary) Stop() {
	c.cancel()
	c.wg.Wait()
}

// watch keeps the n-th connection to one server.
func (c *Canary) watch(server int, addr netip.AddrPort, n int) {
	apart := min(c.again, canaryYoung/2)
	pause := c.again
	for {
		live := c.awaitLive()
		if live == nil {
			return
		}
		if n > 0 && !c.awaitFirst(live, server, apart) {
			continue
		}
		begun := time.Now()
		conn, err := c.dial(live, addr)
		if err == nil {
			h := c.join(live, server, conn)
			if !c.hold(live, server, h) {
				continue // paused
			}
		} else {
			c.tried(live, server)
		}
		old := time.Since(begun) > canaryYoung
		if err == nil && old {
			pause = c.again
		}
		wait := pause
		if old && c.Line(server) != 0 {
			wait = apart / 2 // before the other one ends, too
		}
		select {
		case <-time.After(wait):
		case <-live.Done():
			continue
		}
		if err == nil {
			pause = min(2*pause, canaryMax)
		}
	}
}

// awaitFirst waits until another connection to the server is there, and a while. false:
// paused.
func (c *Canary) awaitFirst(live context.Context, server int, apart time.Duration) bool {
	for {
		select {
		case <-time.After(apart):
		case <-live.Done():
			return false
		}
		c.mu.Lock()
		there := len(c.lines[server].held) > 0
		c.mu.Unlock()
		if there {
			return true
		}
	}
}

// awaitLive waits while paused; nil: stopped.
func (c *Canary) awaitLive() context.Context {
	for {
		c.mu.Lock()
		live, resume := c.live, c.resume
		c.mu.Unlock()
		if live != nil && live.Err() == nil {
			return live
		}
		select {
		case <-resume:
			if c.quit.Err() != nil {
				return nil
			}
		case <-c.quit.Done():
			return nil
		}
	}
}

// hold reads until the connection ends, and reports whether the server has ended it.
func (c *Canary) hold(live context.Context, server int, h *held) bool {
	stop := context.AfterFunc(live, func() { h.conn.Close() })
	var buf [512]byte
	var err error
	for err == nil || errors.Is(err, syscall.EPERM) { // it was being asked just then
		_, err = h.conn.Read(buf[:]) // a greeting, perhaps
	}
	ended := stop()
	h.conn.Close()
	c.mu.Lock()
	c.lines[server].leave(h)
	c.mu.Unlock()
	return ended
}
