package traffic

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"lockstep/internal/lab"
)

// Names of the roles for lab.Host.Go.
const (
	ServerRole = "traffic-server"
	ClientRole = "traffic-client"
)

// Roles makes client and server available as processes of their own: hand it to lab.Main.
func Roles() lab.Roles {
	return lab.Roles{ServerRole: serverRole, ClientRole: clientRole}
}

// ServerArgs of ServerRole.
type ServerArgs struct {
	Listen   []string      `json:"listen"` // literal addresses with ports
	Patience time.Duration `json:"patience,omitempty"`
	Debug    bool          `json:"debug,omitempty"` // log failed connections
	HTTP     bool          `json:"http,omitempty"`  // see Server.HTTP
	// Every is the time between progress events; 0: none.
	Every time.Duration `json:"every,omitempty"`
}

// ServerEvent of ServerRole: the first tells that it listens, later ones its progress.
type ServerEvent struct {
	Listening []string `json:"listening,omitempty"`
	Sent      int64    `json:"sent"`
	Received  int64    `json:"received"`
	Open      int64    `json:"open"`
}

func serverRole(ctx context.Context, r *lab.RoleIO) error {
	var args ServerArgs
	if err := decodeArgs(r, &args); err != nil {
		return err
	}
	level := slog.LevelInfo
	if args.Debug {
		level = slog.LevelDebug
	}
	s := NewServer(args.Patience, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})))
	s.HTTP = args.HTTP
	defer s.Close()
	var event ServerEvent
	var wg sync.WaitGroup
	defer wg.Wait()
	defer s.Close() // before waiting for the Serve loops
	for _, addr := range args.Listen {
		ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		event.Listening = append(event.Listening, ln.Addr().String())
		wg.Go(func() { _ = s.Serve(ln) }) // ends with s
	}
	if err := r.Emit(event); err != nil {
		return err
	}
	if args.Every <= 0 {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(args.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			err := r.Emit(ServerEvent{Sent: s.Progress.Sent.Load(), Received: s.Progress.Received.Load(), Open: s.Progress.Open.Load()})
			if err != nil {
				return err
			}
		}
	}
}

// ClientArgs of ClientRole.
type ClientArgs struct {
	Addr     string        `json:"addr"`
	Requests []Batch       `json:"requests"`
	Patience time.Duration `json:"patience,omitempty"`
	Dialling int           `json:"dialling,omitempty"`
	// Every is the time between progress events; 0: none.
	Every time.Duration `json:"every,omitempty"`
	// Results asks for each connection's result, not only the summary.
	Results bool `json:"results,omitempty"`
}

// Batch of equal connections.
type Batch struct {
	Count   int     `json:"count"`
	Request Request `json:"request"`
}

// FinishMessage, sent to ClientRole, closes Client.Finish.
const FinishMessage = "finish"

// ClientEvent of ClientRole: progress now and then, "all open" once, at last the summary.
type ClientEvent struct {
	Sent     int64    `json:"sent"`
	Received int64    `json:"received"`
	Rounds   int64    `json:"rounds"`
	Open     int64    `json:"open"`
	AllOpen  bool     `json:"all_open,omitempty"` // every connection has been established
	Summary  *Summary `json:"summary,omitempty"`
	Results  []Result `json:"results,omitempty"`
}

// maxRoleConnections bounds what one role is asked for.
const maxRoleConnections = 200_000

func clientRole(ctx context.Context, r *lab.RoleIO) error {
	var args ClientArgs
	if err := decodeArgs(r, &args); err != nil {
		return err
	}
	var reqs []Request
	for _, b := range args.Requests {
		if b.Count < 0 || len(reqs)+b.Count > maxRoleConnections {
			return fmt.Errorf("more than %d connections asked for", maxRoleConnections)
		}
		reqs = append(reqs, Times(b.Count, b.Request)...)
	}
	finish := make(chan struct{})
	opened := make(chan struct{}, len(reqs))
	c := &Client{
		Dial: func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", args.Addr)
		},
		Finish: finish, Patience: args.Patience, Dialling: args.Dialling,
		OnOpen: func(uint64) { opened <- struct{}{} },
	}
	done := make(chan []Result, 1)
	go func() { done <- c.Run(ctx, reqs...) }()
	var tick <-chan time.Time
	if args.Every > 0 {
		t := time.NewTicker(args.Every)
		defer t.Stop()
		tick = t.C
	}
	event := func() ClientEvent {
		return ClientEvent{Sent: c.Progress.Sent.Load(), Received: c.Progress.Received.Load(),
			Rounds: c.Progress.Rounds.Load(), Open: c.Progress.Open.Load()}
	}
	messages, open := r.Messages, 0
	for {
		var e ClientEvent
		select {
		case <-tick:
			e = event()
		case <-opened:
			if open++; open < len(reqs) {
				continue
			}
			e = event()
			e.AllOpen = true
		case m, ok := <-messages:
			if !ok {
				messages = nil // ctx ends too
			} else if string(m) == `"`+FinishMessage+`"` {
				close(finish)
				messages = nil
			}
			continue
		case results := <-done:
			e = event()
			s := Summarize(results...)
			e.Summary = &s
			if args.Results {
				e.Results = results
			}
			return errors.Join(r.Emit(e), ctx.Err())
		}
		if err := r.Emit(e); err != nil {
			return err
		}
	}
}

func decodeArgs(r *lab.RoleIO, v any) error {
	if err := json.Unmarshal(r.Args, v); err != nil {
		return fmt.Errorf("decode arguments: %w", err)
	}
	return nil
}
