package traffic

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Client runs requests against a server. The fields are read only once it runs.
type Client struct {
	// Dial connects to the server, by whatever way. Required.
	Dial func(ctx context.Context) (net.Conn, error)
	// Finish, when closed, ends Rounds without a number (Idle). nil: only ctx does.
	Finish <-chan struct{}
	// Patience is how long a connection may be without progress; 0 is one minute.
	Patience time.Duration
	// Dialling is how many connections are being established at a time; 0 is 64.
	Dialling int
	// OnRound is called with each round's time, concurrently.
	OnRound func(time.Duration)
	// OnOpen is called as each connection has its first answer (Rounds) or is established
	// (Stream), concurrently.
	OnOpen func(id uint64)
	// Progress of all connections.
	Progress Progress
}

// Do runs one request on a connection of its own.
func (c *Client) Do(ctx context.Context, req Request) Result {
	return c.do(ctx, req, func() {})
}

// Run runs many at the same time and returns the results in the same order.
func (c *Client) Run(ctx context.Context, reqs ...Request) []Result {
	n := c.Dialling
	if n <= 0 {
		n = 64
	}
	slots := make(chan struct{}, n)
	results := make([]Result, len(reqs))
	var wg sync.WaitGroup
	for i, req := range reqs {
		slots <- struct{}{} // given back once connected, or failed
		wg.Go(func() {
			release := sync.OnceFunc(func() { <-slots })
			defer release()
			results[i] = c.do(ctx, req, release)
		})
	}
	wg.Wait()
	return results
}

// Times repeats a request n times.
func Times(n int, req Request) []Request {
	reqs := make([]Request, n)
	for i := range reqs {
		reqs[i] = req
	}
	return reqs
}

func (c *Client) patience() time.Duration {
	if c.Patience == 0 {
		return time.Minute
	}
	return c.Patience
}

func (c *Client) do(ctx context.Context, req Request, connected func()) (res Result) {
	if req.ID == 0 {
		req.ID = rand.Uint64() | 1
	}
	if req.Seed == 0 {
		req.Seed = req.ID
	}
	res = Result{ID: req.ID, Mode: req.Mode}
	start := time.Now()
	err := c.connectAndRun(ctx, req, &res, connected)
	res.Total = time.Since(start)
	if err == nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		res.Error = fmt.Sprintf("connection %d: %v", req.ID, err)
		res.Corrupt = errors.Is(err, errMismatch)
		return res
	}
	res.Intact = true
	return res
}

func (c *Client) connectAndRun(ctx context.Context, req Request, res *Result, connected func()) error {
	if err := req.check(); err != nil {
		return err
	}
	conn, err := c.open(ctx, req, res)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	c.Progress.Open.Add(1)
	defer c.Progress.Open.Add(-1)
	e := &end{conn: conn, patience: c.patience(), progress: &c.Progress, noVerify: req.NoVerify, quit: ctx.Done()}
	if req.Mode == Rounds {
		return c.rounds(ctx, e, req, res, connected)
	}
	connected()
	if c.OnOpen != nil {
		c.OnOpen(req.ID)
	}
	return c.stream(ctx, e, req, res)
}

// open dials and sends the request.
func (c *Client) open(ctx context.Context, req Request, res *Result) (net.Conn, error) {
	dialCtx, cancel := context.WithTimeout(ctx, c.patience())
	defer cancel()
	begin := time.Now()
	conn, err := c.Dial(dialCtx)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	res.Connect = time.Since(begin)
	if err := setCongestion(conn, req.Congestion); err != nil {
		conn.Close()
		return nil, err
	}
	_ = conn.SetWriteDeadline(time.Now().Add(c.patience())) // fails only if closed; then so does the write
	if err := writeRequest(conn, req); err != nil {
		conn.Close()
		return nil, fmt.Errorf("send request: %w", err)
	}
	return conn, nil
}

func (c *Client) stream(ctx context.Context, e *end, req Request, res *Result) error {
	up, down := upPattern(req.Seed), downPattern(req.Seed)
	var in, out gapMeter
	send := func() (err error) {
		res.Sent, err = e.sendFlow(up, req.Up, &out)
		res.Write = out.gap
		return err
	}
	receive := func() (err error) {
		res.Received, err = e.receiveFlow(down, req.Down, &in)
		res.Down, res.Downs = in.gap, in.gaps
		return err
	}
	var report ServerReport
	readReport := func() error {
		_ = e.conn.SetReadDeadline(time.Now().Add(e.patience)) // fails only if closed; then so does the read
		if err := readMessage(e.conn, &report); err != nil {
			return fmt.Errorf("server's report: %w", e.explain(err))
		}
		return nil
	}
	var err error
	switch req.Close {
	case ClientFirst:
		err = inTurn(send, e.closeWrite, receive, readReport, e.receiveEnd)
	case ServerFirst:
		err = inTurn(receive, e.receiveEnd, send, e.closeWrite, func() (err error) {
			report, err = c.query(ctx, req.ID)
			return err
		})
	default:
		err = inTurn(func() error { return atOnce(e.conn, receive, send) }, readReport, e.receiveEnd)
	}
	if err != nil {
		return err
	}
	res.Up, res.Ups = report.Up, report.Ups
	if req.Repeatable {
		res.Ups = out.gaps
	}
	if !report.Intact || report.Received != req.Up.Size {
		return fmt.Errorf("server received %d of %d bytes: %s", report.Received, req.Up.Size, report.Error)
	}
	return nil
}

// query asks the server about a connection whose own way back is closed, until it has ended.
func (c *Client) query(ctx context.Context, id uint64) (ServerReport, error) {
	ctx, cancel := context.WithTimeout(ctx, c.patience())
	defer cancel()
	for pause := time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		var r ServerReport
		conn, err := c.open(ctx, Request{ID: id, Mode: query}, &Result{})
		if err == nil {
			_ = conn.SetReadDeadline(time.Now().Add(c.patience()))
			err = readMessage(conn, &r)
			conn.Close()
		}
		if err != nil {
			return r, fmt.Errorf("ask for the server's report: %w", err)
		}
		if r.Known {
			return r, nil
		}
		select {
		case <-ctx.Done():
			return r, fmt.Errorf("ask for the server's report: the connection has not ended there: %w", ctx.Err())
		case <-time.After(pause):
		}
	}
}

func (c *Client) rounds(ctx context.Context, e *end, req Request, res *Result, connected func()) error {
	up, down := upPattern(req.Seed), downPattern(req.Seed)
	out, in := make([]byte, req.RequestSize), make([]byte, req.ResponseSize)
	round := func() error {
		begin := time.Now()
		up.Fill(out, uint64(res.Sent))
		if err := e.conn.SetDeadline(begin.Add(e.patience)); err != nil {
			return fmt.Errorf("round %d: %w", res.Rounds, err)
		}
		if _, err := e.conn.Write(out); err != nil {
			return fmt.Errorf("round %d: %w", res.Rounds, e.explain(err))
		}
		if _, err := io.ReadFull(e.conn, in); err != nil {
			return fmt.Errorf("round %d: %w", res.Rounds, e.explain(err))
		}
		now := time.Now()
		if bad := down.Verify(in, uint64(res.Received)); bad >= 0 && !req.NoVerify {
			return fmt.Errorf("round %d: %w: %s", res.Rounds, errMismatch, down.diagnose(in[bad:], uint64(res.Received)+uint64(bad), 1<<20))
		}
		res.Sent += int64(len(out))
		res.Received += int64(len(in))
		res.Rounds++
		c.Progress.Rounds.Add(1)
		c.Progress.Sent.Add(int64(len(out)))
		c.Progress.Received.Add(int64(len(in)))
		// A round that waits for its answer is a silence; the pause between rounds is not. The
		// first includes the server's accept.
		if d := now.Sub(begin); res.Rounds > 1 && d > res.Down.Longest {
			res.Down = Gap{Longest: d, At: begin}
		}
		if c.OnRound != nil {
			c.OnRound(now.Sub(begin))
		}
		return nil
	}
	for i := 0; req.Rounds == 0 || i < req.Rounds; i++ {
		last := false
		if i > 0 {
			var ended error
			if last, ended = c.pause(ctx, req); ended != nil {
				return ended
			}
		}
		if err := round(); err != nil {
			return err
		}
		if i == 0 {
			connected()
			if c.OnOpen != nil {
				c.OnOpen(req.ID)
			}
		}
		if last {
			break
		}
	}
	return inTurn(e.closeWrite, e.receiveEnd)
}

// pause between rounds; last tells that the next is to be the last.
func (c *Client) pause(ctx context.Context, req Request) (last bool, err error) {
	var tick <-chan time.Time
	switch {
	case req.Interval > 0:
		timer := time.NewTimer(req.Interval)
		defer timer.Stop()
		tick = timer.C
	case req.Rounds > 0:
		return false, ctx.Err()
	}
	finish := c.Finish
	if req.Rounds > 0 {
		finish = nil
	} else if finish == nil && tick == nil {
		return false, errors.New("a connection without rounds or interval would never end (hint: set Client.Finish)")
	}
	select {
	case <-tick:
		return false, nil
	case <-finish:
		return true, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}
