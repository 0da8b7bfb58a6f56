package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"lockstep/internal/lab"
	"lockstep/internal/lab/traffic"
)

// Names of the roles.
const (
	serverRole = "bench-server"
	loadRole   = "bench-load"
	copyRole   = "bench-iocopy"
)

// Roles are all that the bench starts inside labs, traffic's included: hand them to lab.Main.
func Roles() lab.Roles {
	roles := traffic.Roles()
	maps.Copy(roles, lab.Roles{serverRole: runServer, loadRole: runLoad, copyRole: runCopy, crowdServerRole: runCrowdServer, crowdClientRole: runCrowdClient})
	return roles
}

// The two services behind every gateway. Those whose connections outlive a server have ports of
// their own, see keptServices: from the same client's port to the same server's there is only one
// connection.
const (
	checkedPort = 80   // traffic.Server: every byte checked
	leanPort    = 8080 // leanServer: nothing that costs time
)

// The first byte on a connection to the leanServer says what it is for.
const (
	wantDown  = 'd' // the server sends until the connection ends
	wantUp    = 'u' // the server receives until the connection ends
	wantRound = 'r' // first byte of a request of requestSize; answered with responseSize
)

const (
	requestSize  = 100       // bytes
	responseSize = 1 << 10   // bytes
	bulkChunk    = 256 << 10 // bytes per read or write of bulk transfers
)

// mark is what a process of the bench counts at one moment of its own clock.
type mark struct {
	At       int64 `json:"at"`       // nanoseconds since the process began, monotonic
	Received int64 `json:"received"` // bulk bytes that arrived here
	Rounds   int64 `json:"rounds,omitempty"`
	Open     int64 `json:"open"` // connections
	// Of the client, since its last mark: connections that failed, the first reason, connections
	// that existed but did nothing, latencies.
	Failed  int      `json:"failed,omitempty"`
	Error   string   `json:"error,omitempty"`
	Stalled int      `json:"stalled,omitempty"`
	Latency *latency `json:"latency,omitempty"`
}

// latency of requests, nanoseconds.
type latency struct {
	Count int64 `json:"count"`
	P50   int64 `json:"p50"`
	P99   int64 `json:"p99"`
}

// Messages to the roles.
const (
	doMark  = "mark"
	doStart = "start" // load only
	doStop  = "stop"  // load only
)

// order is a message to a role.
type order struct {
	Do   string `json:"do"`
	Load load   `json:"load,omitzero"`
}

func runServer(ctx context.Context, r *lab.RoleIO) error {
	checked := traffic.NewServer(time.Minute, nil)
	lean := &leanServer{begin: time.Now(), conns: make(map[net.Conn]struct{})}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer checked.Close()
	defer lean.close()
	for i := range 1 + len(keptServices) {
		ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", fmt.Sprintf(":%d", checkedPort+i))
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		wg.Go(func() { _ = checked.Serve(ln) }) // ends with the server
		quick, err := (&net.ListenConfig{}).Listen(ctx, "tcp", fmt.Sprintf(":%d", leanPort+i))
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		lean.add(quick)
		wg.Go(func() { lean.serve(quick) })
	}
	if err := r.Emit(mark{}); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case m, ok := <-r.Messages:
			if !ok {
				return nil
			}
			var o order
			if err := json.Unmarshal(m, &o); err != nil || o.Do != doMark {
				return fmt.Errorf("unknown order %s", m)
			}
			now := lean.mark()
			now.Open += checked.Progress.Open.Load()
			if err := r.Emit(now); err != nil {
				return err
			}
		}
	}
}

// leanServer does what wantDown, wantUp and wantRound say, as cheaply as it can.
type leanServer struct {
	begin time.Time

	received, open atomic.Int64

	mu     sync.Mutex
	lns    []net.Listener
	conns  map[net.Conn]struct{}
	closed bool
	wg     sync.WaitGroup
}

func (s *leanServer) mark() mark {
	return mark{At: int64(time.Since(s.begin)), Received: s.received.Load(), Open: s.open.Load()}
}

// close ends all connections and waits for their goroutines.
func (s *leanServer) close() {
	s.mu.Lock()
	s.closed = true
	for _, ln := range s.lns {
		ln.Close()
	}
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// add a listener that close closes.
func (s *leanServer) add(ln net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lns = append(s.lns, ln)
}

func (s *leanServer) serve(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(5 * time.Millisecond) // out of descriptors: let others end
			continue
		}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			conn.Close()
			return
		}
		s.conns[conn] = struct{}{}
		s.wg.Go(func() {
			s.handle(conn)
			conn.Close()
			s.mu.Lock()
			delete(s.conns, conn)
			s.mu.Unlock()
		})
		s.mu.Unlock()
	}
}

func (s *leanServer) handle(conn net.Conn) {
	request := make([]byte, requestSize)
	n, err := conn.Read(request)
	if err != nil {
		return
	}
	// An appliance that watches the server has a connection open without ever saying anything.
	s.open.Add(1)
	defer s.open.Add(-1)
	switch request[0] {
	case wantDown:
		for b := make([]byte, bulkChunk); err == nil; {
			_, err = conn.Write(b)
		}
	case wantUp:
		for b := make([]byte, bulkChunk); err == nil; {
			n, err = conn.Read(b)
			s.received.Add(int64(n))
		}
	case wantRound:
		response := make([]byte, responseSize)
		for {
			if _, err := io.ReadFull(conn, request[n:]); err != nil {
				return
			}
			if _, err := conn.Write(response); err != nil {
				return
			}
			n = 0
		}
	}
}

// copyArgs of copyRole: listening address to server.
type copyArgs struct {
	Forward map[string]string `json:"forward"`
}

// runCopy is the plain Go proxy: what one writes in a quarter of an hour. The runtime uses
// splice(2), so bulk bytes stay in the kernel.
func runCopy(ctx context.Context, r *lab.RoleIO) error {
	var args copyArgs
	if err := json.Unmarshal(r.Args, &args); err != nil {
		return fmt.Errorf("decode arguments: %w", err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for from, to := range args.Forward {
		ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", from)
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		defer ln.Close()
		wg.Go(func() {
			for {
				conn, err := ln.Accept()
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err != nil {
					fmt.Fprintln(os.Stderr, "accept:", err)
					time.Sleep(5 * time.Millisecond)
					continue
				}
				wg.Go(func() { relay(ctx, conn.(*net.TCPConn), to) })
			}
		})
	}
	if err := r.Emit(struct{}{}); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

func relay(ctx context.Context, client *net.TCPConn, to string) {
	defer client.Close()
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", to)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	server := c.(*net.TCPConn)
	defer server.Close()
	defer context.AfterFunc(ctx, func() { client.Close(); server.Close() })()
	pump := func(dst, src *net.TCPConn) {
		if _, err := io.Copy(dst, src); err != nil {
			// One side is gone: so is the connection.
			dst.Close()
			src.Close()
			return
		}
		_ = dst.CloseWrite() // fails only if the connection is gone
	}
	done := make(chan struct{})
	go func() { defer close(done); pump(server, client) }()
	pump(client, server)
	<-done
}
