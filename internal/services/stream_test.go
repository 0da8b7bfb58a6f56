package services

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"lockstep/appliance/config"
	"lockstep/internal/lab"
	"lockstep/internal/lab/labtest"
	"lockstep/internal/realservers"
)

// Icecast sends stored files, which two servers send alike, and a live stream, of which every
// listener and every server has a piece of its own. See docs/services.md.

var stored = file{"stored.ogg", 16 * mib}

// icecast runs on s1 and s2, with a copy of the stored file each.
func icecast(b *bed) (servers [2]*daemon) {
	for i := range servers {
		www, dir := b.dir(fmt.Sprintf("radio-s%d", i+1)), b.dir(fmt.Sprintf("icecast-s%d", i+1))
		stored.create(b.t, www)
		servers[i] = b.daemon(i, realservers.Icecast, www, dir)
	}
	return servers
}

func radio(port int, name string) string { return fmt.Sprintf("http://%s:%d/%s", lab.VIP4, port, name) }

// listener plays the live stream.
func (l *load) listener(name string, s service) *liveSink {
	l.t.Helper()
	out := &liveSink{}
	l.run(name, nil, out, "curl", "-sS", "--fail", radio(s.port, "live"))
	return out
}

func TestIcecast(t *testing.T) {
	labtest.RequirePrograms(t, "icecast2:icecast2", "curl:curl")
	var (
		listen = service{name: "listen", port: 8000, to: 8000}
		// What the source sends is the request of a hot service, so both servers get it.
		ingest    = service{name: "ingest", port: 8001, to: 8000, protection: config.ProtectHot}
		listenS2  = service{name: "listen-s2", port: 8004, to: 8000, only: "10.20.0.12"}
		storedLog = service{name: "stored-log", port: 8002, to: 8000, protection: config.ProtectLog, http: true}
		storedHot = service{name: "stored-hot", port: 8003, to: 8000, protection: config.ProtectHot, http: true}
	)
	var servers [2]*daemon
	b := lay(t, []service{listen, listenS2, ingest, storedLog, storedHot}, func(b *bed) { servers = icecast(b) })
	downloads := func() *load {
		l := b.load()
		for _, s := range []service{storedLog, storedHot} {
			l.run(s.name, nil, newSink(holdAt, l.free, stored.all()), "curl", "-sS", "--fail", radio(s.port, stored.name))
		}
		return l
	}

	// The source goes on through everything, and so does whoever listens to s2 alone.
	live := b.load()
	source := newLiveSource()
	t.Cleanup(source.end)
	live.run("source", source, nil, "curl", "-sS", "--fail", "-u", "source:secret",
		"-H", "Transfer-Encoding:", "-H", "Expect:", "-H", "Content-Type: application/octet-stream", "-T", "-", radio(ingest.port, "live"))
	live.underWay()
	for i := range servers {
		b.onAir(i, "live")
	}
	direct := live.listener("listener at s2", listenS2)
	lost := b.load()
	sinks := []*liveSink{lost.listener("listener 1", listen), lost.listener("listener 2", listen), direct}
	lost.underWay()
	live.underWay()

	t.Run("server killed", func(t *testing.T) {
		downloads().through(servers[0].kill)
		for _, s := range []service{ingest, storedLog, storedHot} {
			if k := b.sound("a", s); k.Failovers+k.Switched == 0 {
				t.Errorf("%s: no connection was continued by the other server", s.name)
			}
		}
		// Listeners under gateway are told that it is over. Whoever comes again hears what is live
		// now; what was sent meanwhile is lost to him. The source has noticed nothing, and s2 has
		// all of what it has sent.
		for _, c := range lost.clients {
			_ = lost.wait(c) // a live stream ends when its connection does, so curl is content
		}
		late := live.listener("listener again", listen)
		live.underWay()
		b.hearMore(live, late, direct)
		for _, s := range append(sinks, late) {
			if err := s.check(); err != nil {
				t.Error(err)
			}
		}
		_, end := sinks[0].heard()
		begin, _ := late.heard()
		t.Logf("who listened to s1 has missed %d records of the stream: %d to %d", begin-end-1, end+1, begin-1)
		if begin <= end {
			t.Errorf("the stream has gone back from record %d to %d", end, begin)
		}
		sinks = []*liveSink{late, direct}
	})
	servers[0].start()
	b.awaitHealthy("a")
	t.Run("appliance killed", func(t *testing.T) {
		downloads().through(func() { b.Kill(b.a) })
		b.hearMore(live, sinks...)
		for _, s := range sinks {
			if err := s.check(); err != nil {
				t.Error(err)
			}
		}
		for _, s := range []service{ingest, storedLog, storedHot} {
			b.sound("b", s)
		}
	})
}

// onAir waits until the i-th server has a live stream.
func (b *bed) onAir(i int, mount string) {
	b.t.Helper()
	tr := &http.Transport{DialContext: b.Servers[i].DialContext, DisableKeepAlives: true}
	c := http.Client{Transport: tr, Timeout: 5 * time.Second}
	b.Await(fmt.Sprintf("s%d has the live stream %s", i+1, mount), func() bool {
		resp, err := c.Get("http://127.0.0.1:8000/" + mount)
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// hearMore waits until every sink has heard two more seconds of the stream, while nobody of live
// ends.
func (b *bed) hearMore(live *load, sinks ...*liveSink) {
	b.t.Helper()
	want := make([]int, len(sinks))
	for i, s := range sinks {
		_, last := s.heard()
		want[i] = last + 2*recordsPerSecond
	}
	b.Await("every listener hears more", func() bool {
		live.mustRun()
		for i, s := range sinks {
			if _, last := s.heard(); last < want[i] && s.check() == nil {
				return false
			}
		}
		return true
	})
}

// A live stream is made of numbered records, so that every listener can tell whether his piece of
// it skips.
const (
	recordSize   = 16
	recordFormat = "%015d\n"
	// recordsPerSecond of the source, at most
	recordsPerSecond = 8000
)

// liveSource is a stream in real time until it is ended, of 128 KB/s.
type liveSource struct {
	mu   sync.Mutex
	next int
	over chan struct{}
	once sync.Once
}

func newLiveSource() *liveSource { return &liveSource{over: make(chan struct{})} }

func (s *liveSource) end() { s.once.Do(func() { close(s.over) }) }

// Read implements io.Reader.
func (s *liveSource) Read(b []byte) (n int, err error) {
	select {
	case <-s.over:
		return 0, io.EOF
	case <-time.After(10 * time.Millisecond):
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for range min(recordsPerSecond/100, len(b)/recordSize) {
		n += copy(b[n:], fmt.Sprintf(recordFormat, s.next))
		s.next++
	}
	return n, nil
}

func (s *liveSource) there() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next > 1000
}

// liveSink is a listener: it begins anywhere, and from there on no record may be missing.
type liveSink struct {
	mu          sync.Mutex
	rest        []byte // an incomplete record
	began       bool
	first, last int
	err         error
}

// Write implements io.Writer.
func (s *liveSink) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rest = append(s.rest, b...)
	for {
		line, rest, ok := bytes.Cut(s.rest, []byte("\n"))
		if !ok {
			return len(b), nil
		}
		s.rest = rest
		s.record(string(line))
	}
}

func (s *liveSink) record(line string) {
	n, err := strconv.Atoi(line)
	switch {
	case s.err != nil:
	case !s.began && len(line) < recordSize-1: // he came in the middle of one
	case err != nil || len(line) != recordSize-1:
		s.err = fmt.Errorf("after record %d comes %.40q", s.last, line)
	case s.began && n != s.last+1:
		s.err = fmt.Errorf("after record %d comes %d", s.last, n)
	case !s.began:
		s.began, s.first, s.last = true, n, n
	default:
		s.last = n
	}
}

// heard are the first and the last record.
func (s *liveSink) heard() (first, last int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.first, s.last
}

func (s *liveSink) there() bool {
	first, last := s.heard()
	return last-first > 500
}

func (s *liveSink) check() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil && !s.began {
		return errors.New("nothing was heard")
	}
	return s.err
}
