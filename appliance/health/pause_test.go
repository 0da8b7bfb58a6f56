package health

import (
	"context"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// A probe whose end this process sees late, since it had no CPU, is made again: who asks is not told that the server is
// gone. If that goes on for ever the server is not taken for alive for ever.
func TestProbeAfterAPauseOfOurOwn(t *testing.T) {
	for name, c := range map[string]struct {
		pauses int // probes in a row
		dead   bool
	}{
		"one":      {pauses: 1},
		"several":  {pauses: lateProbes},
		"for ever": {pauses: 1000, dead: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, everySecond)
				w.p.Start()
				w.sleepUntil(500 * time.Millisecond)
				before := w.dialled()
				w.become(func(n int) (net.Conn, error) {
					if n > before+c.pauses {
						return alive(n)
					}
					time.Sleep(5 * time.Second) // stopped
					return nil, os.ErrDeadlineExceeded
				})
				if err := w.p.Now(context.Background(), 0); (err != nil) != c.dead {
					t.Errorf("found: %v", err)
				}
				if s := w.p.status()[0]; !c.dead && (!s.Up || s.Failures > 0) {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

// overOnceAnswered is a context whose end is seen by a process that was stopped meanwhile.
type overOnceAnswered struct {
	context.Context
	answered func() bool
}

func (o overOnceAnswered) Done() <-chan struct{} {
	for end := time.Now().Add(10 * time.Second); !o.answered() && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	over := make(chan struct{})
	close(over)
	return over
}

// An answer that has come counts although its time is over when this process gets to look.
func TestAnswerBeforeAPauseOfOurOwn(t *testing.T) {
	needRoot(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	near, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	raw, err := near.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	ctx := overOnceAnswered{context.Background(), func() bool {
		_, next, wl1 := lookAt(raw, repairOffSilent)
		return wl1 == next
	}}
	if !answers(ctx, near) {
		t.Error("the answer is not seen")
	}
}
