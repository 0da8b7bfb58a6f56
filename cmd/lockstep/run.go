package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"lockstep/appliance"
	"lockstep/appliance/config"
)

func runCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run this machine as an appliance",
		Long: `Runs an appliance in the foreground until it is told to stop. The first appliance of a pair to
come up becomes the active one, the other joins it as its standby.

It needs root (or CAP_NET_ADMIN and CAP_NET_RAW; with CAP_BPF, too, passed-on packets go the
short way) and /dev/net/tun. It adds its TUN device, routes and rules and removes them when it
ends. SIGTERM or Ctrl-C ends it in order: the standby takes over; a second signal ends it at once. SIGHUP has it
read its configuration again, as lockstep reload does.

Where a package has installed it, systemd runs it: systemctl enable --now lockstep; its log is
in journalctl -u lockstep.

Exit status: 0 told to stop, 1 could not run, 2 wrong configuration.`,
		Example: `  lockstep run -c /etc/lockstep/lockstep.yaml
  LOCKSTEP_LOG_LEVEL=debug lockstep run -c a.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(path)
			if err != nil {
				return err
			}
			level := new(slog.LevelVar)
			log := newLogger(cfg.Log, level, cmd.ErrOrStderr())
			ctx, stop := untilSignal(log)
			defer stop()
			again := func() (*config.Config, error) {
				cfg, err := config.Load(path)
				if err == nil {
					if errs := config.Unsupported(cfg); errs != nil {
						err = errs
					}
				}
				if err != nil {
					return nil, explainConfig(path, "changed", err)
				}
				return cfg, nil
			}
			return appliance.RunFile(ctx, cfg, appliance.File{Load: again, Level: level}, log)
		},
	}
	configFlag(cmd, &path, defaultConfig)
	return cmd
}

// newLogger sets level to what is configured; it may be changed later.
func newLogger(c config.Log, level *slog.LevelVar, w io.Writer) *slog.Logger {
	// Validation has let through only names that slog knows.
	_ = level.UnmarshalText([]byte(c.Level))
	opts := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

// untilSignal returns a context that ends with the first SIGINT or SIGTERM.
// The second ends the process: whoever asks twice will not wait. stop ends the
// watching and joins its goroutine.
func untilSignal(log *slog.Logger) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	quit, joined := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(joined)
		for count := 1; ; count++ {
			select {
			case s := <-signals:
				if count == 2 {
					os.Exit(128 + int(s.(syscall.Signal)))
				}
				log.Info("told to stop; once more to stop at once", "signal", s.String())
				cancel()
			case <-quit:
				return
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(quit)
		<-joined
		cancel()
	}
}
