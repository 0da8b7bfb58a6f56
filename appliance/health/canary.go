package health

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Canary holds one idle connection open to each server. When a server's process dies,
// its kernel ends that connection together with all others: so a process that was
// killed is known as such even if it was started again before a probe could find its
// port closed.
//
// A server may also end an idle connection because it has waited long enough. Then
// Died is wrong for a moment; the canary is opened again, and who closes it soon each
// time is asked ever more rarely.
type Canary struct {
	dial  Dial
	again time.Duration // pause before it is opened again

	quit   context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	resume chan struct{} // closed by Resume and Stop, made anew by Pause

	mu    sync.Mutex
	live  context.Context // ends with Pause; nil while paused
	mute  context.CancelFunc
	ended []time.Time // by server: when the connection was last ended by the other side
}

const (
	// canaryYoung is the age below which an end counts against opening it again soon.
	canaryYoung = 10 * time.Second
	canaryMax   = time.Minute
)

// NewCanary makes one that does nothing before Resume. again is the pause before a
// connection that was ended is opened again.
func NewCanary(servers []netip.AddrPort, dial Dial, again time.Duration) *Canary {
	c := &Canary{dial: dial, again: again, ended: make([]time.Time, len(servers)), resume: make(chan struct{})}
	c.quit, c.cancel = context.WithCancel(context.Background())
	for i, a := range servers {
		c.wg.Add(1)
		go func() {
			defer c.wg.Done()
			c.watch(i, a)
		}()
	}
	return c
}

// Died reports whether the connection to a server was ended by the other side after
// since.
func (c *Canary) Died(server int, since time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended[server].After(since)
}

// Pause closes the connections: the appliance is mute.
func (c *Canary) Pause() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live == nil {
		return
	}
	c.mute()
	c.live, c.resume = nil, make(chan struct{})
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

// Stop closes them for good and returns when every goroutine has ended.
func (c *Canary) Stop() {
	c.cancel()
	c.wg.Wait()
}

// watch keeps the connection to one server.
func (c *Canary) watch(server int, addr netip.AddrPort) {
	pause := c.again
	for {
		live := c.awaitLive()
		if live == nil {
			return
		}
		begun := time.Now()
		conn, err := c.dial(live, addr)
		if err == nil && !c.hold(live, server, conn) {
			continue // paused
		}
		if err == nil && time.Since(begun) > canaryYoung {
			pause = c.again
		}
		select {
		case <-time.After(pause):
		case <-live.Done():
			continue
		}
		if err == nil {
			pause = min(2*pause, canaryMax)
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
func (c *Canary) hold(live context.Context, server int, conn net.Conn) bool {
	stop := context.AfterFunc(live, func() { conn.Close() })
	var buf [512]byte
	var err error
	for err == nil {
		_, err = conn.Read(buf[:]) // a greeting, perhaps
	}
	if !stop() {
		return false
	}
	conn.Close()
	c.mu.Lock()
	c.ended[server] = time.Now()
	c.mu.Unlock()
	return true
}
