// Package rig runs whole appliances, and a witness, inside the lab's standard topology: the
// common ground of the end-to-end tests.
//
// It owns the keys, the configuration files and the processes of a pair. The appliances are the
// test binary itself, so they run with the race detector whenever the tests do. It must not know
// what is tested: servers, clients and load are the caller's business.
package rig

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"syscall"

	"lockstep/appliance"
	"lockstep/appliance/config"
	"lockstep/appliance/witness"
)

// applianceEnv makes this test binary an appliance, witnessEnv a witness. (Not LOCKSTEP_…: that
// is configuration.)
const (
	applianceEnv = "E2E_APPLIANCE_CONFIG"
	witnessEnv   = "E2E_WITNESS_CONFIG"
	speedEnv     = "E2E_CLOCK_SPEED" // of its clock
)

// Main is to be called first in TestMain. In a process that a Pair has started it plays the
// appliance or the witness and exits; in any other it returns at once.
func Main() {
	run := runAppliance
	path := os.Getenv(applianceEnv)
	if path == "" {
		if path = os.Getenv(witnessEnv); path == "" {
			return
		}
		run = runWitness
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	err := run(ctx, path, log)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func runAppliance(ctx context.Context, path string, log *slog.Logger) error {
	if out := os.Getenv("E2E_CPUPROFILE"); out != "" {
		if f, err := os.Create(out + "-" + filepath.Base(path) + ".prof"); err == nil && pprof.StartCPUProfile(f) == nil {
			defer pprof.StopCPUProfile()
		}
	}
	cfg, err := config.Load(path)
	if err != nil {
		return err
	}
	clk, err := clockOf(os.Getenv(speedEnv))
	if err != nil {
		return err
	}
	return appliance.RunWithClock(ctx, cfg, clk, log)
}

func runWitness(ctx context.Context, path string, log *slog.Logger) error {
	cfg, err := config.LoadWitness(path)
	if err != nil {
		return err
	}
	clk, err := clockOf(os.Getenv(speedEnv))
	if err != nil {
		return err
	}
	return witness.RunWithClock(ctx, cfg, clk, log)
}
