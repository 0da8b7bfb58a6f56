package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"lockstep/appliance/config"
	"lockstep/appliance/control"
)

const watchPeriod = time.Second

type statusOptions struct {
	socketFlags
	watch bool
	all   bool // services
}

func statusCommand() *cobra.Command {
	var o statusOptions
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show role, peer, whether the standby is in step, connections, drops",
		Long: `Asks the appliance on this machine how it is: its role, the peer, whether the standby could take
over now without loss (and if not, why), how far it lags in bytes and microseconds, connections,
takeovers, and what was dropped and why.

The appliance is found by --control SOCKET, by the ` + "`control`" + ` key of -c FILE, or at ` + config.DefaultControl + `.

Exit status: 0 active or standby, and in sync; 1 the appliance cannot be reached; 2 wrong flags or
configuration; 3 it runs, but the pair is not in sync: a crash now would cost connections.`,
		Example: `  lockstep status
  lockstep status --watch
  lockstep status --json | jq .lag
  lockstep status >/dev/null || echo "not protected"`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := o.client()
			if err != nil {
				return err
			}
			defer client.Close()
			if o.watch {
				return watch(client, cmd.OutOrStdout(), &o)
			}
			return showOnce(client, cmd.OutOrStdout(), &o)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.json, "json", false, "print one JSON object (with --watch: one per line and second)")
	f.BoolVarP(&o.watch, "watch", "w", false, "show it anew every second until Ctrl-C")
	f.BoolVar(&o.all, "all", false, "show every service, however many there are")
	o.add(cmd, false)
	return cmd
}

func showOnce(client *control.Client, out io.Writer, o *statusOptions) error {
	s, err := client.Status(context.Background())
	if err != nil {
		return &exitError{exitFailed, err}
	}
	if o.json {
		if err := printJSON(out, s); err != nil {
			return err
		}
	} else if _, err := io.WriteString(out, render(&s, newPalette(out), time.Now(), o.all)); err != nil {
		return err
	}
	return syncStatus(&s)
}

// syncStatus is the exit status that a status calls for.
func syncStatus(s *control.Status) error {
	if s.InSync && (s.Role == control.RoleActive || s.Role == control.RoleStandby) {
		return nil
	}
	return &exitError{status: exitNotInSync}
}

// watch redraws until it is interrupted.
func watch(client *control.Client, out io.Writer, o *statusOptions) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	terminal := isTerminal(out) && !o.json
	if terminal {
		// Hide the cursor, or it would be seen jumping; show it again at the end.
		io.WriteString(out, "\x1b[?25l\x1b[2J")
		defer io.WriteString(out, "\x1b[?25h")
	}
	colours := newPalette(out)
	tick := time.NewTicker(watchPeriod)
	defer tick.Stop()
	for {
		frame := watchFrame(ctx, client, colours, o)
		if ctx.Err() != nil {
			return nil
		}
		if terminal {
			frame = redraw(frame, out)
		}
		if _, err := io.WriteString(out, frame); err != nil {
			if errors.Is(err, syscall.EPIPE) {
				return nil // the reader has seen enough
			}
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// watchFrame is what one second shows; an appliance that is gone is news, not
// the end of watching.
func watchFrame(ctx context.Context, client *control.Client, colours palette, o *statusOptions) string {
	s, err := client.Status(ctx)
	if o.json {
		var v any = s
		if err != nil {
			v = map[string]string{"error": err.Error()}
		}
		line, err := json.Marshal(v)
		if err != nil {
			return ""
		}
		return string(line) + "\n"
	}
	if err != nil {
		return colours.bad(err.Error()) + "\n"
	}
	return render(&s, colours, time.Now(), o.all)
}

// redraw makes a frame that overwrites the last one in place: from the top
// left corner, each line cleared behind its end, the rest of the screen below.
// Nothing is blank in between, so nothing flickers. Lines that would scroll
// the screen are left out.
func redraw(frame string, out io.Writer) string {
	lines := strings.Split(strings.TrimSuffix(frame, "\n"), "\n")
	if f, ok := out.(*os.File); ok {
		if _, height, err := term.GetSize(int(f.Fd())); err == nil && height > 1 && len(lines) > height-1 {
			lines = lines[:height-1]
		}
	}
	return "\x1b[H" + strings.Join(lines, "\x1b[K\n") + "\x1b[K\n\x1b[J"
}

func isTerminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// palette colours words when the output is a terminal that wants them.
type palette struct{ on bool }

func newPalette(out io.Writer) palette {
	return palette{on: isTerminal(out) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

func (p palette) paint(code, s string) string {
	if !p.on {
		return s
	}
	return fmt.Sprintf("\x1b[%sm%s\x1b[0m", code, s)
}

func (p palette) good(s string) string   { return p.paint("32", s) }
func (p palette) warn(s string) string   { return p.paint("33", s) }
func (p palette) bad(s string) string    { return p.paint("31;1", s) }
func (p palette) strong(s string) string { return p.paint("1", s) }
func (p palette) faint(s string) string  { return p.paint("2", s) }
