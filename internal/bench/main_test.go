package bench

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"lockstep/appliance"
	"lockstep/appliance/config"
	"lockstep/appliance/witness"
	"lockstep/internal/lab"
)

// TestMain makes this test binary the program that the bench starts as an appliance (`run -c
// FILE`) and as a witness, and a bench of its own (`bench …`), so that the tests need no other binary.
func TestMain(m *testing.M) {
	lab.Main(Roles())
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "run":
			os.Exit(untilTold(func(ctx context.Context, log *slog.Logger) error {
				cfg, err := config.Load(os.Args[3])
				if err != nil {
					return err
				}
				return appliance.Run(ctx, cfg, log)
			}))
		case "witness":
			os.Exit(untilTold(func(ctx context.Context, log *slog.Logger) error {
				cfg, err := config.LoadWitness(os.Args[3])
				if err != nil {
					return err
				}
				return witness.Run(ctx, cfg, log)
			}))
		case "bench":
			cmd := Command()
			cmd.SetArgs(os.Args[2:])
			if cmd.Execute() != nil {
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

// untilTold runs something until SIGTERM.
func untilTold(run func(ctx context.Context, log *slog.Logger) error) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, slog.New(slog.NewTextHandler(os.Stderr, nil))); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
