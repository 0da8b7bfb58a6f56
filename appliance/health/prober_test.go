package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lockstep/appliance/config"
)

var (
	errRefused = errors.New("refused")
	somewhere  = netip.MustParseAddrPort("127.0.0.1:1")
)

// world is a network with servers that are what a test says. Time is the bubble's.
type world struct {
	t     *testing.T
	p     *Prober
	began time.Time

	mu      sync.Mutex
	dials   int
	answer  func(n int) (net.Conn, error) // to the n-th dial, from 1; nil: alive
	changes []string
	down    int // probes after which a server was down
}

// alive is what a server answers that stays connected and says nothing.
func alive(int) (net.Conn, error) {
	conn, _ := net.Pipe()
	return conn, nil
}

func dead(int) (net.Conn, error) { return nil, errRefused }

func newWorld(t *testing.T, health config.Health) *world {
	w := &world{t: t, began: time.Now(), answer: alive}
	probed := func(_ int, up bool, _ string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if !up {
			w.down++
		}
	}
	w.p = New(Config{Servers: []netip.AddrPort{somewhere}, Health: health, Probed: probed}, w.dial, func(server int, up bool, why string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.changes = append(w.changes, fmt.Sprintf("%v: server %d up %v", time.Since(w.began), server, up))
	})
	t.Cleanup(w.p.Stop)
	return w
}

func (w *world) dial(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
	w.mu.Lock()
	w.dials++
	n, answer := w.dials, w.answer
	w.mu.Unlock()
	if answer == nil {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return answer(n)
}

// become changes what the server does; nil: it does not answer.
func (w *world) become(answer func(n int) (net.Conn, error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer = answer
}

func (w *world) dialled() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dials
}

// sleepUntil lets the world's clock reach d.
func (w *world) sleepUntil(d time.Duration) {
	time.Sleep(time.Until(w.began.Add(d)))
	synctest.Wait()
}

func (w *world) changed(want ...string) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Equal(w.changes, want) {
		w.t.Fatalf("changes %q, want %q", w.changes, want)
	}
}

var everySecond = config.Health{Interval: time.Second, Timeout: 300 * time.Millisecond, TCP: true}

func TestUpAndDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, everySecond)
		w.p.Start()
		w.sleepUntil(999 * time.Millisecond)
		if s := w.p.status()[0]; !s.Up || s.Probes != 1 || s.Failures != 0 || s.Latency != settle || s.Since != w.began {
			t.Fatalf("after a probe: %+v", s)
		}
		// One failure is none.
		before := w.dialled()
		w.become(func(n int) (net.Conn, error) {
			if n == before+1 {
				return dead(n)
			}
			return alive(n)
		})
		w.sleepUntil(1999 * time.Millisecond)
		w.changed()
		if s := w.p.status()[0]; s.Probes != 3 || s.Failures != 1 {
			t.Fatalf("after one failure and its second probe: %+v", s)
		}
		w.become(dead)
		w.sleepUntil(3500 * time.Millisecond)
		w.changed("2.04s: server 0 up false")
		if s := w.p.status()[0]; s.Up || s.Why != "refused" || !s.Since.Equal(w.began.Add(2040*time.Millisecond)) {
			t.Fatalf("when down: %+v", s)
		}
		// The verdict stands, but who asks for news gets it: at 3.02 s, and no more after that.
		w.become(alive)
		w.sleepUntil(5 * time.Second)
		w.changed("2.04s: server 0 up false", "4.05s: server 0 up true")
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.down != 2 {
			t.Errorf("told %d times that it is down, want at 2.04 s and at 3.02 s", w.down)
		}
	})
}

// A server that hangs is down after two timeouts.
func TestHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, everySecond)
		w.become(nil)
		w.p.Start()
		w.sleepUntil(2 * time.Second)
		w.changed("600ms: server 0 up false")
		if s := w.p.status()[0]; s.Why != "no answer in time" {
			t.Errorf("why: %s", s.Why)
		}
	})
}

// All who ask at a time share a probe.
func TestNowShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, everySecond)
		w.p.Start()
		synctest.Wait() // the first probe's connection is settling
		w.askMany(100, nil)
		if s := w.p.status()[0]; s.Probes != 2 || s.Asked != 100 {
			t.Fatalf("100 asked during a probe: %+v, want one probe more", s)
		}
		w.sleepUntil(500 * time.Millisecond)
		w.become(dead)
		w.askMany(100, errRefused)
		w.sleepUntil(900 * time.Millisecond)
		// One for all, and one that confirms it.
		if s := w.p.status()[0]; s.Probes != 4 || s.Up {
			t.Fatalf("100 more asked: %+v, want two probes more", s)
		}
	})
}

// An http probe proves nothing before it has sent its request.
func TestNowSharesDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config.Health{Interval: time.Second, Timeout: 300 * time.Millisecond, HTTP: "/"})
		release := make(chan struct{})
		w.become(func(n int) (net.Conn, error) {
			<-release
			return nil, errRefused
		})
		w.p.Start()
		synctest.Wait()
		time.AfterFunc(time.Millisecond, func() { close(release) })
		w.askMany(100, errRefused)
		if s := w.p.status()[0]; s.Probes != 1 {
			t.Fatalf("100 asked during a dial: %+v, want no probe more", s)
		}
	})
}

func (w *world) askMany(n int, want error) {
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			if err := w.p.Now(w.t.Context(), 0); !errors.Is(err, want) {
				w.t.Errorf("Now: %v, want %v", err, want)
			}
		})
	}
	wg.Wait()
}

// A success that began before the call says nothing about the time since.
func TestNowIsNotStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, everySecond)
		release := make(chan struct{})
		w.become(func(n int) (net.Conn, error) {
			if n == 3 {
				<-release // the second connection of the probe that was asked for
			}
			return alive(n)
		})
		w.p.Start()
		synctest.Wait()
		w.p.Pause()
		w.p.Resume() // the periodic probe makes one connection only; this one was asked for
		go func() { _ = w.p.Now(t.Context(), 0) }()
		w.sleepUntil(spacing + 2*settle)
		if w.dialled() != 3 {
			t.Fatalf("%d dials, want one, and both of the probe that was asked for", w.dialled())
		}
		w.become(dead)
		result := make(chan error, 1)
		go func() { result <- w.p.Now(t.Context(), 0) }()
		synctest.Wait()
		close(release)
		if err := <-result; !errors.Is(err, errRefused) {
			t.Fatalf("Now: %v, want a probe of its own that is refused", err)
		}
		if s := w.p.status()[0]; s.Probes != 2 || s.Failures != 1 {
			t.Fatalf("%+v, want one success and one failure", s)
		}
	})
}

func TestNowIsLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, everySecond)
		w.become(dead) // so that a probe takes no time
		w.p.Start()
		for time.Since(w.began) < time.Second {
			if err := w.p.Now(t.Context(), 0); !errors.Is(err, errRefused) {
				t.Fatal(err)
			}
		}
		if s := w.p.status()[0]; s.Probes < 40 || s.Probes > 51 {
			t.Fatalf("%d probes in a second, want about 50", s.Probes)
		}
	})
}

func TestNowOfCallerWhoLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, everySecond)
		w.become(nil)
		w.p.Start()
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := w.p.Now(ctx, 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Now: %v, want the caller's deadline", err)
		}
		if err := w.p.Now(t.Context(), 1); err == nil {
			t.Error("there is a server 1")
		}
	})
}

func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, everySecond)
		if err := w.p.Now(t.Context(), 0); !errors.Is(err, errStopped) {
			t.Errorf("Now before Start: %v", err)
		}
		w.p.Pause()
		w.p.Pause()
		w.p.Start()
		w.sleepUntil(10 * time.Second)
		if err := w.p.Now(t.Context(), 0); !errors.Is(err, errPaused) || w.dialled() != 0 {
			t.Errorf("Now while paused: %v, %d dials", err, w.dialled())
		}
		w.become(nil)
		w.p.Resume()
		w.p.Resume()
		synctest.Wait()
		if w.dialled() != 1 {
			t.Fatalf("%d dials after Resume, want one at once", w.dialled())
		}
		// Both who share the probe and who wait for the next are sent away.
		result := make(chan error, 1)
		go func() { result <- w.p.Now(t.Context(), 0) }()
		synctest.Wait()
		w.p.Pause()
		if err := <-result; !errors.Is(err, errPaused) {
			t.Errorf("Now, paused meanwhile: %v", err)
		}
		w.become(alive)
		w.p.Resume()
		if err := w.p.Now(t.Context(), 0); err != nil {
			t.Errorf("Now after Resume: %v", err)
		}
		w.changed()
		if s := w.p.status()[0]; s.Probes != 1 || s.Failures != 0 {
			t.Errorf("%+v, want nothing known from the probe that was ended", s)
		}
	})
}

// A probe that Pause has ended, but whose dialler is slow to notice, answers nobody who asks
// after Resume.
func TestPausedProbeIsNotShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, everySecond)
		release := make(chan struct{})
		w.become(func(n int) (net.Conn, error) {
			if n == 1 {
				<-release
			}
			return alive(n)
		})
		w.p.Start()
		synctest.Wait()
		w.p.Pause()
		w.p.Resume()
		result := make(chan error, 1)
		go func() { result <- w.p.Now(t.Context(), 0) }()
		synctest.Wait()
		close(release)
		if err := <-result; err != nil {
			t.Fatalf("Now: %v, want a probe of its own", err)
		}
		if s := w.p.status()[0]; s.Probes != 1 {
			t.Errorf("%d probes count, want the second alone", s.Probes)
		}
	})
}

func TestStopEndsProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, everySecond)
		w.become(nil)
		w.p.Start()
		result := make(chan error, 1)
		go func() { result <- w.p.Now(t.Context(), 0) }()
		synctest.Wait()
		w.p.Stop()
		if err := <-result; !errors.Is(err, errStopped) {
			t.Errorf("Now, stopped meanwhile: %v", err)
		}
		if err := w.p.Now(t.Context(), 0); !errors.Is(err, errStopped) {
			t.Errorf("Now after Stop: %v", err)
		}
		if d := time.Since(w.began); d != 0 {
			t.Errorf("Stop took %v", d)
		}
	})
}

// What a dying server's kernel does to a TCP probe.
func TestTCPProbe(t *testing.T) {
	closing := func(after time.Duration, say string) func(int) (net.Conn, error) {
		return func(int) (net.Conn, error) {
			conn, server := net.Pipe()
			go func() {
				time.Sleep(after)
				if say != "" {
					fmt.Fprint(server, say)
				}
				server.Close()
			}()
			return conn, nil
		}
	}
	first := func(a, b func(int) (net.Conn, error)) func(int) (net.Conn, error) {
		return func(n int) (net.Conn, error) {
			if n == 1 {
				return a(n)
			}
			return b(n)
		}
	}
	for _, c := range []struct {
		name   string
		answer func(int) (net.Conn, error)
		want   error // nil: lives
	}{
		{"alive", alive, nil},
		{"refused", dead, errRefused},
		{"accepted and closed", closing(0, ""), errClosed},
		{"accepted and soon closed", closing(settle-1, ""), errClosed},
		{"accepted, then refused", first(alive, dead), errRefused},
		{"greets", closing(settle/2, "hello\n"), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, everySecond)
				w.become(c.answer)
				err := probeTCP(t.Context(), w.dial, somewhere, settle, true)
				if c.want == nil && err != nil || !errors.Is(err, c.want) {
					t.Errorf("%v, want %v", err, c.want)
				}
				if err == nil && w.dialled() != 2 {
					t.Errorf("%d dials, want 2", w.dialled())
				}
				time.Sleep(time.Second) // the servers end
			})
		})
	}
}

// A server is not probed while nothing depends on it, nor while clients' connections show
// that it lives; it is at once when it is in doubt, and as long as it is down.
func TestProbesOnlyWhenOfUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, everySecond)
		var wanted atomic.Bool
		w.p.cfg.Wanted = wanted.Load
		w.p.Pause()
		w.p.Start()
		w.p.Resume()
		w.sleepUntil(100 * time.Second)
		if n := w.dialled(); n != 0 {
			t.Fatalf("%d connections to a server that nobody uses", n)
		}
		wanted.Store(true)
		w.sleepUntil(105500 * time.Millisecond)
		if n := w.dialled(); n < 5 || n > 6 {
			t.Fatalf("%d connections in five seconds, want one a second", n)
		}
		had := w.dialled()
		for range 100 {
			w.p.Passed(0)
			time.Sleep(300 * time.Millisecond)
		}
		if n := w.dialled(); n != had {
			t.Fatalf("%d connections to a server that serves clients", n-had)
		}
		if s := w.p.status()[0]; s.Why != "serves clients" {
			t.Errorf("%+v", s)
		}
		wanted.Store(false)
		w.become(dead)
		w.p.Passed(0)
		w.p.Doubt(0)
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		if s := w.p.status()[0]; s.Up {
			t.Fatalf("a server in doubt is not probed at once: %+v", s)
		}
		w.p.Passed(0) // it was sent before
		w.become(alive)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if s := w.p.status()[0]; !s.Up {
			t.Errorf("a server that is down is not probed any more: %+v", s)
		}
	})
}

// A hung process accepts connections, too.
func TestPassedSaysNothingToHTTP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config.Health{Interval: time.Second, Timeout: 300 * time.Millisecond, HTTP: "/"})
		w.become(nil)
		w.p.Start()
		for range 20 {
			w.p.Passed(0)
			time.Sleep(100 * time.Millisecond)
		}
		if s := w.p.status()[0]; s.Up {
			t.Errorf("%+v", s)
		}
	})
}
