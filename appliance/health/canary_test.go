package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// life is the server's side of the canaries: processes that have one port, one after the
// other, and what of their ends has arrived here.
type life struct {
	mu    sync.Mutex
	now   *process // that has the port; nil: none
	conns []*idle  // in the order in which they were opened
}

type process struct{ dead bool }

// idle is a canary's connection: it ends here when that arrives, not when its process dies.
type idle struct {
	net.Conn
	far    net.Conn
	of     *process
	closed bool // by the process, which lives
}

var errNobody = errors.New("connection refused")

func (w *life) dial(context.Context, netip.AddrPort) (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.now == nil {
		return nil, errNobody
	}
	near, far := net.Pipe()
	c := &idle{Conn: near, far: far, of: w.now}
	w.conns = append(w.conns, c)
	return c, nil
}

// ask is answers: what the kernel of a dead process says shows that the connection is not there.
func (w *life) ask(_ context.Context, conn net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := conn.(*idle)
	return !c.of.dead && !c.closed
}

// crash ends the process, and another one has the port at once.
func (w *life) crash() {
	w.mu.Lock()
	w.now.dead = true
	w.now = &process{}
	w.mu.Unlock()
}

// arrives is the end of the i-th connection.
func (w *life) arrives(i int) {
	w.mu.Lock()
	c := w.conns[i]
	c.closed = true
	w.mu.Unlock()
	c.far.Close()
	synctest.Wait()
}

const (
	again = 4 * time.Second // and apart
	long  = 2 * canaryYoung
)

// watched is a canary whose connections are open.
func watched(t *testing.T) (*life, *Canary) {
	w := &life{now: &process{}}
	c := NewCanary([]netip.AddrPort{{}}, w.dial, again, time.Second)
	c.ask = w.ask
	t.Cleanup(c.Stop)
	c.Resume()
	synctest.Wait()
	return w, c
}

func (w *life) open(t *testing.T, n int) {
	t.Helper()
	for range 100 {
		synctest.Wait()
		w.mu.Lock()
		have := len(w.conns)
		w.mu.Unlock()
		if have >= n {
			return
		}
		time.Sleep(again / 4)
	}
	t.Fatalf("not %d connections", n)
}

func expect(t *testing.T, c *Canary, line uint64, want Fate, when string) {
	t.Helper()
	if got := c.Fate(t.Context(), 0, line); got != want {
		t.Errorf("%s: %v, want %v", when, got, want)
	}
}

// A process dies and another one has its port at once. In whatever order the ends of its
// connections arrive, new ones are opened to its successor, and a client's end is judged, the
// dead process is never taken for alive, nor its successor for the same.
func TestCrashInAnyOrder(t *testing.T) {
	events := []string{"first ends", "second ends", "later", "judged"}
	permutations(events, func(order []string) {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, c := watched(t)
				early := c.Line(0)
				w.open(t, 2)
				time.Sleep(askSpacing)
				line := c.Line(0)
				if early == 0 || line != early {
					t.Fatalf("lines %d, %d", early, line)
				}
				expect(t, c, line, Alive, "before")
				time.Sleep(long)
				w.crash()
				for _, e := range order {
					switch e {
					case "first ends":
						w.arrives(0)
					case "second ends":
						w.arrives(1)
					case "later": // connections to the successor, where one has ended
						time.Sleep(2 * again)
					case "judged":
						expect(t, c, line, Dead, "of the dead process")
					}
				}
				expect(t, c, line, Dead, "at last")
				time.Sleep(4 * again)
				after := c.Line(0)
				if after == line || after == 0 {
					t.Fatalf("line %d after the crash, %d before", after, line)
				}
				expect(t, c, after, Alive, "of the successor")
				expect(t, c, line, Dead, "of the dead process")
			})
		})
	})
}

func permutations(all []string, f func([]string)) {
	var next func(int)
	next = func(i int) {
		if i == len(all) {
			f(append([]string(nil), all...))
			return
		}
		for j := i; j < len(all); j++ {
			all[i], all[j] = all[j], all[i]
			next(i + 1)
			all[i], all[j] = all[j], all[i]
		}
	}
	next(0)
}

// A process dies before its second connection was opened, and the end of the first has not
// arrived when that is: it is to the successor.
func TestSuccessorIsNotJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, c := watched(t)
		line := c.Line(0)
		w.crash()
		w.open(t, 2)
		synctest.Wait()
		after := c.Line(0)
		if after == line {
			t.Fatal("the successor is taken for the same process")
		}
		expect(t, c, line, Dead, "of the dead process")
		expect(t, c, after, Alive, "of the successor")
	})
}

// A server that ends idle connections lives: one of them was always there.
func TestIdleConnectionsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, c := watched(t)
		w.open(t, 2)
		line := c.Line(0)
		for i := range 8 { // each when it is as old as the one before it was
			time.Sleep(again)
			if i%2 == 0 {
				time.Sleep(long)
			}
			w.arrives(i)
			time.Sleep(askSpacing)
			expect(t, c, line, Alive, fmt.Sprint("after end ", i+1))
			w.open(t, i+3)
		}
	})
}

// Nothing is known of who was never watched, or let go of; nobody waits for what will not come.
func TestUnwatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &life{}
		c := NewCanary([]netip.AddrPort{{}}, w.dial, again, time.Second)
		c.ask = w.ask
		defer c.Stop()
		expect(t, c, 0, Unknown, "never watched")
		woken := 0
		wake := func() { woken++ }
		if c.Ready(0, wake) {
			t.Error("ready before it was tried")
		}
		c.Resume()
		synctest.Wait()
		if woken != 1 || !c.Ready(0, wake) || c.Line(0) != 0 {
			t.Errorf("woken %d times; a server that refuses is waited for", woken)
		}
		c.Pause()
		w.mu.Lock()
		w.now = &process{}
		w.mu.Unlock()
		if c.Ready(0, wake) {
			t.Error("ready while paused")
		}
		c.Resume()
		synctest.Wait()
		line := c.Line(0)
		if woken != 2 || line == 0 {
			t.Errorf("woken %d times, line %d", woken, line)
		}
		c.Pause()
		expect(t, c, line, Unknown, "let go of")
		if c.Line(0) != 0 {
			t.Error("a line while paused")
		}
		c.Off()
		if !c.Ready(0, wake) {
			t.Error("waited for although it is off")
		}
	})
}

// A server that ends idle connections soon each time shows nothing by that.
func TestEndsSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, c := watched(t)
		for i := range 3 {
			w.open(t, i+1)
			w.arrives(i)
		}
		w.open(t, 4)
		if line := c.Line(0); line != 0 {
			t.Errorf("line %d", line)
		}
		time.Sleep(canaryYoung)
		if c.Line(0) == 0 {
			t.Error("no line although it stays open")
		}
	})
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("this test needs root, and CI is set")
		}
		t.Skip("this test needs root")
	}
}

// What the kernel says of a connection: that its peer's socket is there, once in a while, and
// that it is not, also if its end has not been read.
func TestAnswers(t *testing.T) {
	needRoot(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dial := func() (near, far net.Conn) {
		near, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { near.Close() })
		if far, err = ln.Accept(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { far.Close() })
		return near, far
	}
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	near, far := dial()
	for range 2 {
		if !answers(ctx, near) {
			t.Fatal("a peer that is there")
		}
		time.Sleep(askSpacing) // the kernel answers no sooner
	}
	if _, err := far.Write([]byte("a")); err != nil {
		t.Fatal(err)
	}
	if n, err := near.Read(make([]byte, 2)); n != 1 {
		t.Fatalf("a byte after the questions: %d, %v", n, err)
	}
	far.Close()
	if answers(ctx, near) {
		t.Error("a peer that has ended")
	}
	near, far = dial()
	vanish(t, far)
	if answers(ctx, near) {
		t.Error("a peer that has forgotten the connection")
	}
}

// vanish closes a connection without a word.
func vanish(t *testing.T, conn net.Conn) {
	t.Helper()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		err = setRepair(int(fd))
	}); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}
