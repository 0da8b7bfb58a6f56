package traffic

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"
)

// Limits of a server.
const (
	maxReports     = 1 << 16          // finished connections remembered for queries
	requestTimeout = 30 * time.Second // from accept to the whole request
)

// Server does what requests ask for. Make it with NewServer.
type Server struct {
	// Progress of all connections.
	Progress Progress
	// HTTP answers GET requests, too, with an empty 200: a health check finds out so that the
	// process answers, not only its kernel. Set before Serve.
	HTTP bool

	log      *slog.Logger
	patience time.Duration
	quit     chan struct{} // closed by Close

	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	conns     map[net.Conn]struct{}
	reports   map[uint64]ServerReport
	order     []uint64            // of reports, oldest first
	working   map[uint64]net.Conn // past their request, by ID
	closed    bool
	running   sync.WaitGroup
}

// NewServer makes a server that gives up a connection without progress after patience (0: one
// minute). log gets one line per failed connection; nil: discarded.
func NewServer(patience time.Duration, log *slog.Logger) *Server {
	if patience == 0 {
		patience = time.Minute
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Server{
		log: log, patience: patience, quit: make(chan struct{}),
		listeners: make(map[net.Listener]struct{}),
		conns:     make(map[net.Conn]struct{}),
		reports:   make(map[uint64]ServerReport),
		working:   make(map[uint64]net.Conn),
	}
}

// Serve accepts connections until the listener or the server is closed. The server closes the
// listener.
func (s *Server) Serve(ln net.Listener) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		ln.Close()
		return fmt.Errorf("traffic server: %w", os.ErrClosed)
	}
	s.listeners[ln] = struct{}{}
	s.running.Add(1)
	s.mu.Unlock()
	defer s.running.Done()
	defer func() {
		ln.Close()
		s.mu.Lock()
		delete(s.listeners, ln)
		s.mu.Unlock()
	}()
	for {
		conn, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() {
				continue
			}
			// Out of descriptors, or a connection reset before it was accepted: neither is a
			// reason to stop serving the others.
			s.log.Warn("accept", "err", err)
			time.Sleep(5 * time.Millisecond)
			continue
		}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			conn.Close()
			return nil
		}
		s.conns[conn] = struct{}{}
		s.running.Add(1)
		s.mu.Unlock()
		go s.handle(conn)
	}
}

// Close ends everything and waits for it.
func (s *Server) Close() {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.quit)
	}
	for ln := range s.listeners {
		ln.Close()
	}
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
}

// Report returns what the server saw of a connection that has ended.
func (s *Server) Report(id uint64) ServerReport {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reports[id]
}

// Working is the connection with this ID, if it has not ended at the server; nil otherwise. It is to
// be looked at only.
func (s *Server) Working(id uint64) net.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.working[id]
}

// enter notes a connection by its ID until leave.
func (s *Server) enter(id uint64, conn net.Conn) (leave func()) {
	s.mu.Lock()
	s.working[id] = conn
	s.mu.Unlock()
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.working[id] == conn {
			delete(s.working, id)
		}
	}
}

func (s *Server) remember(r ServerReport) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.reports[r.ID]; !ok {
		s.order = append(s.order, r.ID)
	}
	s.reports[r.ID] = r
	if len(s.order) > maxReports {
		delete(s.reports, s.order[0])
		s.order = s.order[1:]
	}
}

func (s *Server) handle(conn net.Conn) {
	defer s.running.Done()
	defer func() {
		conn.Close()
		s.mu.Lock()
		delete(s.conns, conn)
		s.mu.Unlock()
	}()
	_ = conn.SetReadDeadline(time.Now().Add(requestTimeout)) // fails only if closed; then so does the read
	in, err := s.afterHTTP(conn)
	if in == nil && err == nil {
		return // it was a health check
	}
	var req Request
	if err == nil {
		req, err = readRequest(in)
	}
	if err != nil {
		s.log.Debug("connection without a request", "remote", conn.RemoteAddr(), "err", err)
		return
	}
	if req.Mode == query {
		r := s.Report(req.ID)
		_ = conn.SetWriteDeadline(time.Now().Add(s.patience))
		if err := writeMessage(conn, nil, r); err != nil {
			s.log.Warn("answer to a query", "remote", conn.RemoteAddr(), "err", err)
		}
		return
	}
	s.Progress.Open.Add(1)
	defer s.Progress.Open.Add(-1)
	defer s.enter(req.ID, conn)()
	e := &end{conn: conn, patience: s.patience, progress: &s.Progress, noVerify: req.NoVerify, quit: s.quit}
	report := ServerReport{ID: req.ID, Known: true}
	if err = setCongestion(conn, req.Congestion); err == nil {
		if req.Mode == Rounds {
			err = s.rounds(e, req, &report)
		} else {
			err = s.stream(e, req, &report)
		}
	}
	if err != nil {
		report.Intact, report.Error, report.Corrupt = false, err.Error(), errors.Is(err, errMismatch)
		s.log.Debug("connection failed", "id", req.ID, "remote", conn.RemoteAddr(), "err", err)
	}
	s.remember(report)
}

func (s *Server) stream(e *end, req Request, report *ServerReport) (err error) {
	up, down := upPattern(req.Seed), downPattern(req.Seed)
	var in, out gapMeter
	receive := func() (err error) {
		report.Received, err = e.receiveFlow(up, req.Up, &in)
		report.Up, report.Ups = in.gap, in.gaps
		return err
	}
	send := func() (err error) {
		report.Sent, err = e.sendFlow(down, req.Down, &out)
		return err
	}
	sendReport := func() error {
		report.Intact = true
		if err := e.conn.SetWriteDeadline(time.Now().Add(e.patience)); err != nil {
			return fmt.Errorf("send report: %w", err)
		}
		say := *report
		if req.Repeatable {
			say.Up, say.Ups = Gap{}, nil
		}
		if err := writeMessage(e.conn, nil, say); err != nil {
			return fmt.Errorf("send report: %w", e.explain(err))
		}
		return nil
	}
	switch req.Close {
	case ClientFirst:
		return inTurn(receive, e.receiveEnd, send, sendReport)
	case ServerFirst:
		return inTurn(send, e.closeWrite, receive, e.receiveEnd, func() error { report.Intact = true; return nil })
	default:
		return inTurn(func() error { return atOnce(e.conn, receive, send) }, sendReport, e.closeWrite, e.receiveEnd)
	}
}

// rounds answers requests until the client closes.
func (s *Server) rounds(e *end, req Request, report *ServerReport) error {
	up, down := upPattern(req.Seed), downPattern(req.Seed)
	in, out := make([]byte, req.RequestSize), make([]byte, req.ResponseSize)
	var meter gapMeter
	for {
		// A connection may be idle for as long as it likes.
		if err := e.conn.SetReadDeadline(time.Time{}); err != nil {
			return fmt.Errorf("round: %w", err)
		}
		whole, err := e.receiveRound(in)
		if err != nil || !whole {
			report.Intact = err == nil
			report.Up = meter.gap
			return err
		}
		meter.tick(time.Now())
		if bad := up.Verify(in, uint64(report.Received)); bad >= 0 && !e.noVerify {
			return fmt.Errorf("round: %w: %s", errMismatch, up.diagnose(in[bad:], uint64(report.Received)+uint64(bad), 1<<20))
		}
		report.Received += int64(len(in))
		down.Fill(out, uint64(report.Sent))
		if err := e.conn.SetWriteDeadline(time.Now().Add(e.patience)); err != nil {
			return fmt.Errorf("round: %w", err)
		}
		if _, err := e.conn.Write(out); err != nil {
			return fmt.Errorf("round: %w", e.explain(err))
		}
		report.Sent += int64(len(out))
		e.progress.Rounds.Add(1)
	}
}

func inTurn(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// atOnce runs both and returns the first error; that one also ends the other by closing the
// connection.
func atOnce(conn net.Conn, a, b func() error) error {
	ctx, fail := context.WithCancelCause(context.Background())
	defer fail(nil)
	run := func(f func() error) {
		if err := f(); err != nil {
			fail(err)
			conn.Close()
		}
	}
	done := make(chan struct{})
	go func() { defer close(done); run(b) }()
	run(a)
	<-done
	return context.Cause(ctx)
}
