package pair

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"lockstep/appliance"
	"lockstep/appliance/config"
	"lockstep/appliance/witness"
	"lockstep/internal/clock"
	"lockstep/internal/lab"
)

// nodeRole runs a node as the calling program: with the race detector, if that has it, and with a
// clock of its own speed.
const nodeRole = "node"

type nodeArgs struct {
	Config  string  `json:"config"`
	Witness bool    `json:"witness"`
	Speed   float64 `json:"speed"`
}

// Roles are what lab.Main must know for nodes that are the calling program.
func Roles() lab.Roles { return lab.Roles{nodeRole: playNode} }

func playNode(ctx context.Context, r *lab.RoleIO) error {
	var args nodeArgs
	if err := json.Unmarshal(r.Args, &args); err != nil {
		return fmt.Errorf("decode arguments: %w", err)
	}
	for _, kv := range os.Environ() { // see Environment
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "LOCKSTEP_") {
			os.Unsetenv(name)
		}
	}
	var clk clock.Clock = clock.System{}
	if args.Speed != 1 {
		own := clock.NewDrifting(args.Speed)
		clk = own
		var steps sync.WaitGroup
		defer steps.Wait()
		var stop context.CancelFunc
		ctx, stop = context.WithCancel(ctx)
		defer stop()
		steps.Go(func() { step(ctx, own, r.Messages) })
	}
	if args.Witness {
		c, err := config.LoadWitness(args.Config)
		if err != nil {
			return err
		}
		return witness.RunWithClock(ctx, c, clk, logger(c.Log))
	}
	c, err := config.Load(args.Config)
	if err != nil {
		return err
	}
	return appliance.RunWithClock(ctx, c, clk, logger(c.Log))
}

// step puts the clock forward as StepClock tells.
func step(ctx context.Context, clk *clock.Drifting, messages <-chan json.RawMessage) {
	for {
		select {
		case <-ctx.Done():
			return
		case m, ok := <-messages:
			var by time.Duration
			if !ok || json.Unmarshal(m, &by) != nil {
				return // nobody is there any more
			}
			clk.Step(by)
		}
	}
}

func logger(l config.Log) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(l.Level)) // validated
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}
