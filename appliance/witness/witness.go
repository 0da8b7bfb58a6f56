// Package witness runs the third voter of many pairs, on a host of its own.
//
// It owns: the one address where all pairs reach it, one voter per pair, what it
// logs and its metrics. A witness votes and never leads. It must not know anything
// of connections, packets or services, and needs no privileges.
package witness

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"

	"lockstep/appliance/config"
	"lockstep/appliance/metrics"
	"lockstep/appliance/voter"
	"lockstep/internal/clock"
	"lockstep/internal/loglimit"
	"lockstep/internal/notify"
	"lockstep/replication/identity"
	"lockstep/replication/transport"
)

// server is a running witness.
type server struct {
	port    *transport.Port
	pairs   []*pair // in the order of the configuration
	metrics *metrics.Server
	wg      sync.WaitGroup // watchers
	quit    chan struct{}  // closed by Close
}

// pair is one pair that is served.
type pair struct {
	name       string
	appliances [2]string
	voter      *voter.Voter
	log        *slog.Logger
}

// Run is a witness from start to end: it returns when ctx ends, or at once with an
// error that says what could not be set up.
func Run(ctx context.Context, cfg *config.Witness, log *slog.Logger) error {
	return RunWithClock(ctx, cfg, clock.System{}, log)
}

// RunWithClock is Run with a clock that may be off, for tests.
func RunWithClock(ctx context.Context, cfg *config.Witness, clk clock.Clock, log *slog.Logger) error {
	limited := loglimit.New(log.Handler())
	defer limited.Close()
	w, err := startWithClock(cfg, clk, slog.New(limited))
	if err != nil {
		return err
	}
	manager := notify.Ready(log, w.inShort)
	<-ctx.Done()
	manager.Close()
	w.close()
	return nil
}

// inShort is what a service manager shows. It asks every voter, so that who waits for it in
// vain knows that one hangs.
func (w *server) inShort() string {
	for _, p := range w.pairs {
		if err := p.voter.Answer(); err != nil {
			return fmt.Sprintf("pair %s: %v", p.name, err)
		}
	}
	return fmt.Sprintf("a vote for %d pairs", len(w.pairs))
}

// begin serves all pairs. Faults of the identities are config.Errors, all
// at once.
func begin(cfg *config.Witness, log *slog.Logger) (*server, error) {
	return startWithClock(cfg, clock.System{}, log)
}

func startWithClock(cfg *config.Witness, clk clock.Clock, log *slog.Logger) (*server, error) {
	ids, err := Identities(cfg)
	if err != nil {
		return nil, err
	}
	w := &server{quit: make(chan struct{})}
	if err := w.start(cfg, ids, clk, log); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func (w *server) start(cfg *config.Witness, ids []*identity.Identity, clk clock.Clock, log *slog.Logger) (err error) {
	w.port, err = transport.Listen(transport.PortConfig{
		Listen: cfg.Listen, Log: log,
		// All appliances come at once when the witness starts, beside strangers.
		HandshakeSlots: 8 + 4*len(ids),
	})
	if err != nil {
		return fmt.Errorf("%w (listen must be an address of this machine, and free)", err)
	}
	var seed [8]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return fmt.Errorf("draw a boot number: %w", err)
	}
	boot := max(binary.BigEndian.Uint64(seed[:]), 1)
	for _, id := range ids {
		p := &pair{name: id.Pair, appliances: [2]string(id.Peers()), log: log.With("pair", id.Pair)}
		p.voter, err = voter.Start(voter.Config{
			Identity: id, Boot: boot, Appliances: p.appliances, Witness: id.Node,
			Port: w.port, Heartbeat: cfg.Heartbeat, FailureTimeout: cfg.FailureTimeout, Clock: clk,
			State: voter.StatePath(cfg.State, id.Pair), Log: p.log,
		})
		if err != nil {
			return fmt.Errorf("serve pair %q: %w", id.Pair, err)
		}
		w.pairs = append(w.pairs, p)
		w.wg.Add(1)
		go func() {
			defer w.wg.Done()
			p.watch(w.quit)
		}()
	}
	if cfg.Metrics.IsValid() {
		if w.metrics, err = metrics.ServeCollector(cfg.Metrics, newCollector(w), log); err != nil {
			return err
		}
	}
	log.Info("witness started", "listen", w.addr().String(), "pairs", len(w.pairs))
	return nil
}

// Identities loads the identities and checks that each is a witness's, of a pair of
// its own. Its error is config.Errors, with every fault.
func Identities(cfg *config.Witness) ([]*identity.Identity, error) {
	var errs config.Errors
	var ids []*identity.Identity
	taken := map[string]string{} // path by pair
	for i, dir := range cfg.Identities {
		path := fmt.Sprintf("identities[%d]", i)
		id, err := identity.Load(dir)
		if err != nil {
			errs = append(errs, config.FieldError{Path: path, Msg: err.Error()})
			continue
		}
		if n := len(id.Peers()); n != 2 {
			errs = append(errs, config.FieldError{Path: path, Msg: fmt.Sprintf("%q holds certificates of %d other nodes, a pair has two appliances", dir, n),
				Hint: "copy here the directory that `lockstep keys --members a,b --witness NAME` made for NAME"})
		}
		if !identity.ValidName(id.Pair) {
			errs = append(errs, config.FieldError{Path: path, Msg: fmt.Sprintf("%q is of a pair called %q", dir, id.Pair), Hint: identity.Hint})
		}
		if first, ok := taken[id.Pair]; ok {
			errs = append(errs, config.FieldError{Path: path, Msg: fmt.Sprintf("%q is of pair %q, as is %s", dir, id.Pair, first),
				Hint: "a witness tells pairs apart by name: give one of them another pair.name and new keys, or remove one"})
		}
		taken[id.Pair] = path
		ids = append(ids, id)
	}
	if errs != nil {
		return nil, errs
	}
	return ids, nil
}

// addr is the address that the witness listens on.
func (w *server) addr() netip.AddrPort { return w.port.Addr() }

// close stops voting and returns when every goroutine has ended.
func (w *server) close() {
	if w.metrics != nil {
		w.metrics.Close()
	}
	close(w.quit)
	for _, p := range w.pairs {
		p.voter.Close()
	}
	w.wg.Wait()
	if w.port != nil {
		w.port.Close()
	}
}
