package traffic

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestPatternIsPositionCoded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Pattern(rapid.Uint64().Draw(t, "seed"))
		off := rapid.Uint64Range(0, 1<<40).Draw(t, "offset")
		b := make([]byte, rapid.IntRange(1, 200).Draw(t, "length"))
		p.Fill(b, off)
		if bad := p.Verify(b, off); bad != -1 {
			t.Fatalf("own bytes are wrong at %d", bad)
		}
		// The sequence does not depend on how it is cut.
		cut := rapid.IntRange(0, len(b)).Draw(t, "cut")
		c := make([]byte, len(b))
		p.Fill(c[:cut], off)
		p.Fill(c[cut:], off+uint64(cut))
		if !bytes.Equal(b, c) {
			t.Fatalf("cut at %d gives other bytes", cut)
		}
		i := rapid.IntRange(0, len(b)-1).Draw(t, "flipped")
		b[i] ^= byte(rapid.IntRange(1, 255).Draw(t, "bits"))
		if bad := p.Verify(b, off); bad != i {
			t.Fatalf("byte %d changed, Verify says %d", i, bad)
		}
	})
}

func TestDiagnoseNamesTheShift(t *testing.T) {
	p := upPattern(3)
	b := make([]byte, 64)
	p.Fill(b, 5000) // 1000 bytes were lost before
	if got := p.diagnose(b, 4000, 1<<16); !strings.Contains(got, "belong to offset 5000") {
		t.Error(got)
	}
	if got := p.diagnose(make([]byte, 64), 4000, 1<<10); strings.Contains(got, "belong") {
		t.Error(got)
	}
}

func BenchmarkVerify(b *testing.B) {
	p := downPattern(1)
	buf := make([]byte, 256<<10)
	p.Fill(buf, 0)
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		if p.Verify(buf, 0) >= 0 {
			b.Fatal("mismatch")
		}
	}
}

func BenchmarkFill(b *testing.B) {
	p := downPattern(1)
	buf := make([]byte, 256<<10)
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		p.Fill(buf, 0)
	}
}

// pairOnLoopback serves on loopback; through, if set, stands between client and server.
func pairOnLoopback(t *testing.T, through func(client, server net.Conn)) (*Client, *Server) {
	t.Helper()
	s := NewServer(10*time.Second, nil)
	return serveOnLoopback(t, s, through), s
}

func serveOnLoopback(t *testing.T, s *Server, through func(client, server net.Conn)) *Client {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	addr := ln.Addr().String()
	if through != nil {
		addr = relay(t, addr, through)
	}
	return &Client{Patience: 10 * time.Second, Dial: func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	}}
}

// relay accepts connections and lets through carry each to the server.
func relay(t *testing.T, to string, through func(client, server net.Conn)) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", to)
			if err != nil {
				c.Close()
				continue
			}
			through(c, s)
			c.Close()
			s.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return ln.Addr().String()
}

func TestEveryKindOfConnection(t *testing.T) {
	const size = 3<<20 + 7
	slow := Flow{Size: 2000, Chunk: 100, Pace: time.Millisecond}
	late := Flow{Size: 100_100, Chunk: 100, Pace: time.Millisecond, PaceAfter: 100_000}
	stall := Flow{Size: size, StallAfter: 1 << 20, StallFor: 50 * time.Millisecond}
	for name, req := range map[string]Request{
		"download":             Download(size),
		"upload":               Upload(size),
		"both":                 Both(size),
		"nothing":              Download(0),
		"ping-pong":            PingPong(100, 100, 5000),
		"client closes first":  {Mode: Stream, Up: Flow{Size: size}, Down: Flow{Size: size + 1}, Close: ClientFirst},
		"server closes first":  {Mode: Stream, Up: Flow{Size: size}, Down: Flow{Size: size + 1}, Close: ServerFirst},
		"slow writes":          {Mode: Stream, Up: slow, Down: slow},
		"slow at last":         {Mode: Stream, Up: late, Down: late},
		"repeatable":           {Mode: Stream, Up: Flow{Size: size}, Down: Flow{Size: size}, Repeatable: true},
		"client stops reading": {Mode: Stream, Down: stall},
		"server stops reading": {Mode: Stream, Up: stall},
		"reno":                 {Mode: Stream, Down: Flow{Size: 1000}, Congestion: "reno"},
		"unverified":           {Mode: Stream, Down: Flow{Size: size}, NoVerify: true},
	} {
		t.Run(name, func(t *testing.T) {
			c, s := pairOnLoopback(t, nil)
			req.ID = 42
			r := c.Do(context.Background(), req)
			if !r.Intact {
				t.Fatal(r.Error)
			}
			if req.Mode == Stream && (r.Sent != req.Up.Size || r.Received != req.Down.Size) {
				t.Errorf("sent %d, received %d", r.Sent, r.Received)
			}
			if req.Mode == Rounds && (r.Rounds != 100 || r.Sent != 100*100 || r.Received != 100*5000) {
				t.Errorf("%+v", r)
			}
			for deadline := time.Now().Add(10 * time.Second); !s.Report(42).Known && time.Now().Before(deadline); {
				time.Sleep(time.Millisecond) // the server's side ends a moment later
			}
			if rep := s.Report(42); !rep.Known || !rep.Intact || rep.Received != r.Sent || rep.Sent != r.Received {
				t.Errorf("server's report %+v does not match %+v", rep, r)
			}
		})
	}
}

func TestIdleConnectionsFinishOnDemand(t *testing.T) {
	c, _ := pairOnLoopback(t, nil)
	finish := make(chan struct{})
	c.Finish = finish
	open := make(chan uint64, 300)
	c.OnOpen = func(id uint64) { open <- id }
	done := make(chan []Result, 1)
	go func() { done <- c.Run(context.Background(), Times(300, Idle(0))...) }()
	for range 300 {
		<-open
	}
	close(finish)
	s := Summarize(<-done...)
	if !s.Intact || s.Connections != 300 || s.Rounds != 600 {
		t.Errorf("%+v", s)
	}
}

// damage copies both ways and changes what goes to the client.
func damage(change func([]byte) []byte) func(c, s net.Conn) {
	return func(c, s net.Conn) {
		up := make(chan struct{})
		go func() {
			defer close(up)
			_, _ = io.Copy(s, c)
			_ = s.(*net.TCPConn).CloseWrite()
		}()
		b, _ := io.ReadAll(io.LimitReader(s, 5000))
		_, _ = c.Write(change(b))
		_, _ = io.Copy(c, s)
		c.Close()
		<-up
	}
}

func TestDamageIsFound(t *testing.T) {
	for name, d := range map[string]struct {
		change func([]byte) []byte
		at     int
		belong int // 0: nowhere
	}{
		"lost":       {func(b []byte) []byte { return append(b[:1000:1000], b[1300:]...) }, 1000, 1300},
		"duplicated": {func(b []byte) []byte { return append(b[:2000:2000], b[1000:]...) }, 2000, 1000},
		"changed":    {func(b []byte) []byte { b[4321] ^= 1; return b }, 4321, 0},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := pairOnLoopback(t, damage(d.change))
			r := c.Do(context.Background(), Download(10000))
			found := false
			for same := range 4 { // bytes of either place are the same by chance, one in 256
				want := fmt.Sprintf("wrong bytes at offset %d", d.at+same)
				if d.belong > 0 {
					want += fmt.Sprintf(": they belong to offset %d", d.belong+same)
				} else if same > 0 {
					break // a byte that was changed is not the same
				}
				found = found || strings.Contains(r.Error, want)
			}
			if r.Intact || !found {
				t.Errorf("%+v", r)
			}
		})
	}
	t.Run("cut", func(t *testing.T) {
		c, _ := pairOnLoopback(t, func(c, s net.Conn) {
			_, _ = io.Copy(io.Discard, c) // the request is not passed on: nothing comes
		})
		c.Patience = 100 * time.Millisecond
		if r := c.Do(context.Background(), Download(10000)); r.Intact {
			t.Errorf("%+v", r)
		}
	})
}

func TestUploadDamageIsReportedByTheServer(t *testing.T) {
	c, _ := pairOnLoopback(t, func(c, s net.Conn) {
		req, err := readRequest(c)
		if err != nil {
			t.Error(err)
			return
		}
		_ = writeRequest(s, req)
		b := make([]byte, 1000)
		_, _ = io.ReadFull(c, b)
		b[500]++
		_, _ = s.Write(b)
		_, _ = io.Copy(c, s)
	})
	if r := c.Do(context.Background(), Upload(1000)); r.Intact {
		t.Errorf("%+v", r)
	}
}

func TestGapIsSeen(t *testing.T) {
	const pause = time.Second // much more than a client on a busy machine is late
	c, _ := pairOnLoopback(t, func(c, s net.Conn) {
		go func() { _, _ = io.Copy(s, c); s.Close() }()
		_, _ = io.CopyN(c, s, 1<<20)
		time.Sleep(pause) // the silence that is to be measured
		_, _ = io.Copy(c, s)
	})
	before := time.Now()
	r := c.Do(context.Background(), Download(4<<20))
	if !r.Intact {
		t.Fatal(r.Error)
	}
	if g := r.Gap(); g.Longest < pause/2 || g.At.Before(before) || g.At.After(time.Now()) {
		t.Errorf("gap %v at %v", g.Longest, g.At)
	}
}

func TestContextEndsConnections(t *testing.T) {
	c, _ := pairOnLoopback(t, nil)
	ctx, cancel := context.WithCancel(context.Background())
	c.OnOpen = func(uint64) { cancel() }
	r := c.Do(ctx, Request{Mode: Stream, Down: Flow{Size: 1 << 20, Chunk: 1, Pace: time.Hour}})
	if r.Intact || r.Error == "" {
		t.Errorf("%+v", r)
	}
}

func TestServerRefusesNonsense(t *testing.T) {
	for name, b := range map[string][]byte{
		"noise":  []byte("GET / HTTP/1.1\r\n\r\n"),
		"length": append(requestMagic(), 0xff, 0xff, 0xff, 0xff),
		"json":   append(requestMagic(), 0, 0, 0, 2, '{', 'x'),
		"mode":   append(requestMagic(), append([]byte{0, 0, 0, 12}, []byte(`{"mode":"x"}`)...)...),
		"short":  requestMagic(),
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := pairOnLoopback(t, nil)
			conn, err := c.Dial(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Write(b); err != nil {
				t.Fatal(err)
			}
			_ = conn.(*net.TCPConn).CloseWrite()
			_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			if got, err := io.ReadAll(conn); len(got) > 0 || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

func FuzzReadRequest(f *testing.F) {
	var b bytes.Buffer
	if err := writeRequest(&b, Both(1000)); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add(append(requestMagic(), 0, 0, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := readRequest(bytes.NewReader(b))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := writeRequest(&again, r); err != nil {
			return // grew beyond the limit when written canonically
		}
		if r2, err := readRequest(&again); err != nil || r2 != r {
			t.Errorf("%+v became %+v: %v", r, r2, err)
		}
	})
}

// A meter keeps the longest gaps and finds those of a spell.
func TestLongestGaps(t *testing.T) {
	var m gapMeter
	begin := time.Unix(1000, 0)
	now := begin
	for i := range 500 {
		d := time.Duration(i%7+1) * time.Microsecond
		if i%50 == 25 { // ten long ones: 1 to 10 ms
			d = time.Duration(i/50+1) * time.Millisecond
		}
		m.tick(now)
		now = now.Add(d)
	}
	m.tick(now)
	if len(m.gaps) != maxGaps || m.gap.Longest != 10*time.Millisecond {
		t.Fatalf("%d gaps, the longest %v", len(m.gaps), m.gap.Longest)
	}
	long := 0
	for _, g := range m.gaps {
		if g.Longest >= time.Millisecond {
			long++
		}
	}
	if long != 10 {
		t.Errorf("%d of the ten long gaps are kept", long)
	}
	r := Result{Downs: []Gap{{3, begin}, {9, begin.Add(20)}}, Ups: []Gap{{5, begin.Add(8)}}}
	for _, c := range []struct {
		from, until time.Duration
		want        time.Duration
	}{{0, 100, 9}, {0, 20, 5}, {2, 8, 3}, {3, 8, 0}, {12, 29, 9}, {12, 21, 5}, {29, 100, 0}} {
		if got := r.Ended(begin.Add(c.from), begin.Add(c.until)).Longest; got != c.want {
			t.Errorf("from %d until %d: %d, want %d", c.from, c.until, got, c.want)
		}
	}
}

// A server that answers health checks does its work all the same; any other takes them for
// nonsense.
func TestHealthCheckIsAnswered(t *testing.T) {
	deaf, _ := pairOnLoopback(t, nil)
	s := NewServer(10*time.Second, nil)
	s.HTTP = true
	c := serveOnLoopback(t, s, nil)
	get := func(c *Client) string {
		conn, err := c.Dial(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: s1\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		_ = conn.(*net.TCPConn).CloseWrite()
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		b, _ := io.ReadAll(conn) // a refusal may be a reset
		return string(b)
	}
	if got := get(deaf); got != "" {
		t.Errorf("answered %q unasked", got)
	}
	if got := get(c); !strings.HasPrefix(got, "HTTP/1.1 200 ") || !strings.HasSuffix(got, "\r\n\r\n") {
		t.Errorf("%q", got)
	}
	if r := c.Do(context.Background(), Download(1000)); !r.Intact {
		t.Error(r.Error)
	}
}

// What two servers say to the same repeatable request is the same, whatever they measured.
func TestRepeatable(t *testing.T) {
	req := Request{Mode: Stream, ID: 7, Seed: 9, Up: Flow{Size: 5000}, Down: Flow{Size: 70_000}, Repeatable: true}
	answer := func(pause time.Duration) (got []byte) {
		c, _ := pairOnLoopback(t, nil)
		conn, err := c.Dial(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := writeRequest(conn, req); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, req.Up.Size)
		upPattern(req.Seed).Fill(b, 0)
		_, _ = conn.Write(b[:1000])
		time.Sleep(pause) // a gap for the server to measure
		_, _ = conn.Write(b[1000:])
		_ = conn.(*net.TCPConn).CloseWrite()
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if got, err = io.ReadAll(conn); err != nil {
			t.Fatal(err)
		}
		return got
	}
	if a, b := answer(0), answer(5*time.Millisecond); len(a) <= int(req.Down.Size) || !bytes.Equal(a, b) {
		t.Errorf("%d and %d bytes, not the same", len(a), len(b))
	}
}
