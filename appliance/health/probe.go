package health

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"
)

const (
	// settle is how long a connection must stay open. The kernel of a process that
	// is being killed closes its descriptors one after another: the listener may
	// still accept when connections were already ended.
	settle = 10 * time.Millisecond
	// responseMax is how many bytes of a response are read. Who answers so much
	// lives.
	responseMax = 1 << 20
	// interimMax is how many interim responses may precede the one that counts.
	interimMax = 8
)

// probe asks a server once. It calls proof before the steps that prove something: a
// success says that the server lived after that.
// thorough is for who has to know whether the server lives, and not only whether it
// seems to.
func (p *Prober) probe(ctx context.Context, addr netip.AddrPort, thorough bool, proof func()) error {
	if p.cfg.Health.HTTP != "" {
		return probeHTTP(ctx, p.dial, addr, p.cfg.Health.HTTP, proof)
	}
	proof() // the time between the two connections is needed, too
	return probeTCP(ctx, p.dial, addr, min(settle, p.cfg.Health.Timeout/4), thorough)
}

// open dials, and closes the connection when ctx ends, which wakes who reads or writes.
// The caller calls done.
func open(ctx context.Context, dial Dial, addr netip.AddrPort) (conn net.Conn, done func(), err error) {
	conn, err = dial(ctx, addr)
	if err != nil {
		return nil, nil, because(ctx, err)
	}
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		conn.Close()
		close(closed)
	})
	return conn, func() {
		if !stop() {
			<-closed
		}
		conn.Close()
	}, nil
}

// probeTCP connects, looks whether the connection stays open, and, if it is to be
// thorough, connects again.
func probeTCP(ctx context.Context, dial Dial, addr netip.AddrPort, settle time.Duration, thorough bool) error {
	conn, done, err := open(ctx, dial, addr)
	if err != nil {
		return err
	}
	defer done()
	if err := staysOpen(conn, settle); err != nil {
		return fmt.Errorf("connection: %w", because(ctx, err))
	}
	if !thorough {
		return nil
	}
	_, done, err = open(ctx, dial, addr)
	if err != nil {
		return err
	}
	done()
	return nil
}

var errClosed = errors.New("closed as soon as it was open")

// staysOpen reads for a while. A server that says something and hangs up lives, too.
func staysOpen(conn net.Conn, settle time.Duration) error {
	if err := conn.SetReadDeadline(time.Now().Add(settle)); err != nil {
		return fmt.Errorf("set a deadline: %w", err)
	}
	var buf [512]byte
	for {
		n, err := conn.Read(buf[:])
		switch {
		case n > 0, errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case errors.Is(err, io.EOF):
			return errClosed
		case err != nil:
			return err
		}
	}
}

// probeHTTP wants a complete response with a status below 500.
func probeHTTP(ctx context.Context, dial Dial, addr netip.AddrPort, path string, proof func()) error {
	conn, done, err := open(ctx, dial, addr)
	if err != nil {
		return err
	}
	defer done()
	proof()
	status, err := get(conn, addr, path)
	switch {
	case err != nil:
		return fmt.Errorf("get %s: %w", path, because(ctx, err))
	case status >= 500:
		return fmt.Errorf("get %s: status %d", path, status)
	}
	return nil
}

// get sends a request and reads the response to its end.
func get(conn net.Conn, addr netip.AddrPort, path string) (status int, err error) {
	const request = "GET %s HTTP/1.1\r\nHost: %v\r\nUser-Agent: lockstep-health\r\nAccept: */*\r\nConnection: close\r\n\r\n"
	if _, err := fmt.Fprintf(conn, request, path, addr); err != nil {
		return 0, err
	}
	limited := &io.LimitedReader{R: conn, N: responseMax}
	in := bufio.NewReader(limited)
	for range interimMax {
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			return 0, fmt.Errorf("read the response: %w", err)
		}
		if resp.StatusCode < 200 {
			continue
		}
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err != nil && limited.N > 0 {
			return 0, fmt.Errorf("read the response's body: %w", err)
		}
		return resp.StatusCode, nil
	}
	return 0, fmt.Errorf("more than %d interim responses", interimMax)
}

// because replaces what a connection says that was closed because ctx ended. Who gets to
// see it knows which server was asked, so addresses are left out.
func because(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		if op, ok := errors.AsType[*net.OpError](err); ok {
			return op.Err
		}
		return err
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return errors.New("no answer in time")
	}
	return ctx.Err()
}
