package storm

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"lockstep/internal/lab"
	"lockstep/internal/pair"
)

// Kinds of findings.
const (
	findWrong    = "wrong bytes"
	findLost     = "lost"
	findUntold   = "not told"
	findStall    = "standstill"
	findSync     = "not in sync"
	findCrash    = "crash"
	findAlive    = "lives on"
	findAstray   = "astray" // a neighbour entry leads to the appliance that is not active
	findKept     = "not repaired"
	findDiverged = "diverged"      // servers that answer the same were found to differ
	findBreak    = "fault refused" // what was to happen could not be done
)

const (
	maxFolders  = 20   // of evidence; a finding after that is only told
	maxFindings = 1000 // that are kept
	recordSize  = 150_000
	dumpWait    = 500 * time.Millisecond // for an appliance to write its connections into its log
	toolTimeout = 10 * time.Second
)

// finding is something that should not be.
type finding struct {
	Kind   string    `json:"kind"`
	At     time.Time `json:"at"`
	Fault  int       `json:"fault"` // number of the latest fault
	What   string    `json:"what"`  // that fault
	Detail string    `json:"detail"`
	Then   string    `json:"then,omitempty"` // how it went on
	// Starved: a process that had to wait for a CPU shortly before.
	Starved string `json:"starved,omitempty"`
	Folder  string `json:"folder,omitempty"`

	flights []*flight // that stand still
}

// find notes a finding and collects the evidence. It may be called from several goroutines; no
// fault begins before it has returned.
func (s *storm) find(f finding) {
	s.looking.Lock()
	defer s.looking.Unlock()
	s.mu.Lock()
	f.At = time.Now()
	f.Fault, f.What, f.Starved = s.number, s.describe(), s.hungry()
	kept := &f
	if len(s.findings) < maxFindings {
		s.findings = append(s.findings, kept)
	}
	s.total++
	folder := s.folders < maxFolders
	if folder {
		s.folders++
	}
	s.mu.Unlock()
	s.load.mu.Lock()
	for _, fl := range f.flights {
		fl.stalled = kept
	}
	s.load.mu.Unlock()
	s.view.bad("%s after fault %d (%s): %s", f.Kind, f.Fault, f.What, f.Detail)
	if folder {
		dir := filepath.Join(s.out, fmt.Sprintf("%03d-%s-%d", f.Fault, strings.ReplaceAll(f.Kind, " ", "-"), s.folders))
		if err := s.evidence(dir, kept); err != nil {
			s.view.bad("evidence: %v", err)
		}
		s.mu.Lock()
		kept.Folder = dir
		s.mu.Unlock()
	}
	if s.opts.stopAtFirst {
		s.stop()
	}
}

// then notes how a finding went on.
func (s *storm) then(f *finding, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.Then != text && len(f.Then) < 500 {
		if f.Then != "" {
			f.Then += "; "
		}
		f.Then += text
	}
	if f.Folder != "" { // diagnostics only
		_ = os.WriteFile(filepath.Join(f.Folder, "then.txt"), []byte(f.Then+"\n"), 0o644)
	}
}

// evidence writes the folder.
func (s *storm) evidence(dir string, f *finding) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("create folder: %w", err)
	}
	put := func(name, text string) { _ = os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644) }
	// Volatile things first.
	for _, h := range s.hosts() {
		text, err := h.Neighbours()
		if err != nil {
			text += err.Error()
		}
		put("neighbours-"+h.Name()+".txt", text)
	}
	for _, h := range append([]*lab.Host{s.pair.Client}, s.pair.Servers...) {
		put("sockets-"+h.Name()+".txt", tool(h, "ss", "-tinoem"))
		put("kernel-"+h.Name()+".txt", tool(h, "nstat", "-az")+tool(h, "ip", "-s", "-s", "link")+tool(h, "cat", "/proc/net/softnet_stat"))
	}
	for name, r := range s.records {
		var b strings.Builder
		if err := r.WritePCAP(&b); err != nil {
			put(name+".error", err.Error())
		}
		put(name+".pcapng", b.String())
	}
	put("connections.txt", s.load.table())
	for _, n := range []*pair.Node{s.nodes.A, s.nodes.B} {
		if p := n.Process(); p != nil && p.Running() {
			_ = p.Signal(syscall.SIGUSR1)
		}
		st, _ := n.Status(context.Background()) // one that does not answer says nothing
		text, _ := json.MarshalIndent(st, "", "  ")
		put("status-"+n.Name+".json", string(text))
		put("rules-"+n.Name+".txt", tool(n.Host, "ip", "rule")+tool(n.Host, "ip", "-6", "rule")+tool(n.Host, "ip", "route", "show", "table", "all")+
			tool(n.Host, "ip", "-6", "route", "show", "table", "all")+tool(n.Host, "ip", "-s", "addr"))
	}
	time.Sleep(dumpWait)
	for _, n := range s.nodes.Nodes() {
		if p := n.Process(); p != nil {
			put("log-"+n.Name+".txt", p.Output())
		}
	}
	text := fmt.Sprintf("%s\nat %s, after fault %d: %s\n%s\nstarved: %s\n\nrepeat: %s\n\nthe latest faults:\n", f.Kind, f.At.Format("15:04:05.000"), f.Fault, f.What, f.Detail, cmp.Or(f.Starved, "no"), s.opts.repeat())
	for _, line := range s.view.latest() {
		text += line + "\n"
	}
	put("finding.txt", text)
	return nil
}

// tool is what a program on a host prints; one that is not installed is no reason to fail.
func tool(h *lab.Host, name string, args ...string) string {
	text := "# " + name + " " + strings.Join(args, " ") + "\n"
	p, err := h.Start(lab.Command{Name: "tool", Path: name, Args: args})
	if err != nil {
		return text + err.Error() + "\n"
	}
	ctx, cancel := context.WithTimeout(context.Background(), toolTimeout)
	defer cancel()
	_ = p.Wait(ctx)
	return text + p.Output()
}
