package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"lockstep/internal/lab"
	"lockstep/internal/pair"
)

// Results of a cell.
const (
	unnoticed = "unnoticed" // the client is content, its results are right, its connections are the same
	noticed   = "noticed"   // the client has said so, or has come again
	wrong     = "lost"      // the client is content, and something is missing: nobody was told
	notTried  = "not tried"
)

// cell is what came of one client.
type cell struct {
	Peer   string `json:"peer"`
	Mode   string `json:"mode"`
	Fault  string `json:"fault"`
	Result string `json:"result"`
	How    string `json:"how,omitempty"`
}

const (
	underWayIn = time.Minute // on a busy machine
	endsIn     = time.Minute
	lookEvery  = 20 * time.Millisecond
	// otherStatus is what a script ends with whose client is content with other results.
	otherStatus = 3
	// brokenPipe is bash's for a program that wrote to one that has ended.
	brokenPipe = 141
)

// game is one client through one fault.
type game struct {
	peer   peer
	mode   mode
	dir    string
	proc   *lab.Proc
	before map[string]bool // its connections as the server has them, before the fault
	failed string          // why it is not tried
	cell   cell
}

// round lets all clients of all modes play, and the fault come in the middle.
func (b *bed) round(ctx context.Context, f fault, number int) ([]cell, error) {
	if err := errors.Join(b.nodes.AwaitInSync(ctx, pair.SyncWithin), b.awaitHealthy(ctx)); err != nil {
		return nil, err
	}
	stop := filepath.Join(b.dir, fmt.Sprintf("stop-%d", number))
	var games []*game
	for _, m := range b.modes {
		for _, p := range b.peers {
			g, err := b.begin(p, m, f, stop, number)
			if err != nil {
				return nil, err
			}
			games = append(games, g)
		}
	}
	b.underWay(ctx, games)
	for _, g := range games {
		g.before = b.connections(g)
	}
	late := f.do(ctx, b)
	if late != nil {
		late = fmt.Errorf("%s: %w", f.name, late)
		say("%v", late)
	}
	after := map[*game]map[string]bool{}
	for _, g := range games {
		after[g] = b.connections(g)
	}
	if err := os.WriteFile(stop, nil, 0o644); err != nil {
		return nil, err
	}
	limit, cancel := context.WithTimeout(ctx, endsIn)
	defer cancel()
	var cells []cell
	for _, g := range games {
		b.judge(limit, g, after[g])
		say("%s, %s, %s: %s %s", g.peer.Name, g.mode.name, f.name, g.cell.Result, g.cell.How)
		cells = append(cells, g.cell)
	}
	return cells, errors.Join(late, ctx.Err())
}

func (b *bed) begin(p peer, m mode, f fault, stop string, number int) (*game, error) {
	name := fmt.Sprintf("%s-%s-%d%s", p.script, m.name, number, p.play)
	g := &game{peer: p, mode: m, dir: filepath.Join(b.dir, "clients", name), cell: cell{Peer: p.Name, Mode: m.name, Fault: f.name}}
	if err := os.MkdirAll(g.dir, 0o755); err != nil {
		return nil, err
	}
	play := p.play
	if play == "" {
		play = "play"
	}
	errors, err := os.Create(filepath.Join(g.dir, "stderr"))
	if err != nil {
		return nil, err
	}
	// With its first process all that it has begun dies, whatever it has become.
	args := append([]string{"--pid", "--fork", "--kill-child", "--mount-proc", "--", "bash"}, scriptArgs(b.scripts, p.script, play)...)
	g.proc, err = b.lab.Client.Start(lab.Command{Name: name, Path: "unshare", Args: args, Dir: g.dir, Stderr: errors,
		Environ: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + g.dir, "HERE=" + g.dir, "STOP=" + stop, "ADDRESS=" + m.address, "RUN=" + name,
			"SERVER=" + b.serverDir(p, b.lab.Servers[m.servers[0]])}})
	return g, err
}

// underWay waits until all are in the middle of something. Who is not is not tried.
func (b *bed) underWay(ctx context.Context, games []*game) {
	deadline := time.Now().Add(underWayIn)
	for _, g := range games {
		for {
			if _, err := os.Stat(filepath.Join(g.dir, "going")); err == nil {
				break
			}
			if !g.proc.Running() {
				g.failed = fmt.Sprintf("ended too early (%v): %s", g.proc.Err(), g.said())
				break
			}
			if time.Now().After(deadline) || lab.Pause(ctx, lookEvery) != nil {
				g.failed = "did not get under way: " + g.said()
				break
			}
		}
	}
}

// connections are a game's, as its server has them: the client's ports.
func (b *bed) connections(g *game) map[string]bool {
	all := map[string]bool{}
	const client = "647100CB:" // 203.0.113.100, as /proc writes it
	for _, s := range g.mode.servers {
		d := b.daemons[g.peer.script+b.lab.Servers[s].Name()]
		for _, family := range []string{"tcp", "tcp6"} {
			text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", d.proc.PID(), family)) // without it there are none
			for line := range strings.Lines(string(text)) {
				f := strings.Fields(line)
				if len(f) > 3 && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", g.peer.port)) && strings.Contains(f[2], client) && f[3] == "01" {
					all[f[2]] = true // of whichever server: under log and hot another one may have it
				}
			}
		}
	}
	return all
}

// judge waits for the client's end.
func (b *bed) judge(ctx context.Context, g *game, after map[string]bool) {
	_ = g.proc.Wait(ctx)
	hung := g.proc.Running()
	if hung {
		_ = g.proc.Kill()
	}
	err := g.proc.Err()
	var exit *exec.ExitError
	errors.As(err, &exit)
	said := g.said()
	c := &g.cell
	switch {
	case g.failed != "":
		c.Result, c.How = notTried, g.failed
	case hung:
		c.Result, c.How = noticed, "still waits after a minute"
	case exit != nil && exit.ExitCode() == otherStatus && said == "":
		c.Result, c.How = wrong, "is content, and something is missing"
	case exit != nil && exit.ExitCode() == brokenPipe && said == "":
		c.Result, c.How = noticed, "ends (SIGPIPE)"
	case err != nil:
		c.Result, c.How = noticed, said
		if said == "" {
			c.How = err.Error()
		}
	case !maps.Equal(g.before, after) && len(without(g.before, after)) > 0:
		c.Result, c.How = noticed, "its connection ends: it comes again, or had all"
	default:
		c.Result = unnoticed
	}
}

func without(before, after map[string]bool) (gone []string) {
	for name := range before {
		if !after[name] {
			gone = append(gone, name)
		}
	}
	return gone
}

var (
	// What differs each time, in clients' words.
	varies = regexp.MustCompile(`(203\.0\.113|10\.20\.0)\.\d+|/tmp/peers-\d+\S*|\[?\d{4}-\d\d-\d\d[T ][\d:.,Z+-]+\]?|\d+ milliseconds|0x[0-9a-f]{6,}|\bline \d+|\b\d{4,}\b`)
	spaces = regexp.MustCompile(`\s+`)
)

const longestHow = 90 // characters

// said is the last line of the client's standard error that says something, without what differs each time.
func (g *game) said() string {
	text, _ := os.ReadFile(filepath.Join(g.dir, "stderr")) // without it nothing was said
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	slices.Reverse(lines)
	for _, line := range lines {
		line = strings.TrimSpace(spaces.ReplaceAllString(varies.ReplaceAllString(line, "*"), " "))
		if len(line) > longestHow {
			line = line[:longestHow]
		}
		if line != "" {
			return line
		}
	}
	return ""
}
