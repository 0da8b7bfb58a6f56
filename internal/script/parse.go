package script

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// script is a parsed exchange.
type script struct {
	Name      string
	Options   Options
	Families  []int // 4, 6
	Takeovers bool  // run with a takeover before each line, too
	Steps     []Step
}

// Step is one line. Which fields count depends on Verb.
type Step struct {
	Line int
	Text string
	Verb string // "send", "expect", "exact", or the line's first word
	Side string // "c" or "s"
	Out  Out    // send
	Want Want   // expect, exact
	Arg  string
	Opts [2]*Opts // handshake
	N    uint32
	Span time.Duration
}

// Want is an effect at a peer; fields are Next when they do not matter.
type Want struct {
	Flags    uint8
	From, To int64 // bytes, and FIN
	Ack      int64
	Win      int
	Edge     int64
	SACK     [][2]int64
	Opts     *Opts
	Alt      bool
	Again    bool
	Rcv      int64 // exact
	Resets   int   // exact
	Packets  int   // exact: since the last injection there
}

var noWant = Want{From: Next, To: Next, Ack: Next, Win: Next, Edge: Next, Rcv: Next, Resets: Next, Packets: Next}

// parse reads a script.
func parse(name, text string) (*script, error) {
	s := &script{Name: name, Families: []int{4, 6}, Takeovers: true}
	for i, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		st := Step{Line: i + 1, Text: line, Want: noWant}
		words, opts := splitLine(line)
		err := s.step(&st, words, opts)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %q: %w", name, i+1, line, err)
		}
		if st.Verb != "" {
			s.Steps = append(s.Steps, st)
		}
	}
	return s, nil
}

// splitLine separates the words from the <options>.
func splitLine(line string) (words []string, opts []string) {
	for {
		a := strings.IndexByte(line, '<')
		// c< and s< are no options
		if a == 1 {
			words, line = append(words, line[:2]), line[2:]
			continue
		}
		b := strings.IndexByte(line, '>')
		if b == 1 {
			words, line = append(words, line[:2]), line[2:]
			continue
		}
		if a < 0 || b < a {
			return append(words, strings.Fields(line)...), opts
		}
		words = append(words, strings.Fields(line[:a])...)
		opts = append(opts, line[a+1:b])
		line = line[b+1:]
	}
}

func (s *script) step(st *Step, words, opts []string) error {
	args := words[1:]
	arg := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	switch v := words[0]; v {
	case "option":
		return s.option(arg(0), arg(1))
	case "c>", "s>", "c<", "s<", "c=", "s=":
		st.Side = v[:1]
		st.Verb = map[byte]string{'>': "send", '<': "expect", '=': "exact"}[v[1]]
		if st.Verb == "send" {
			return st.parseSend(args, opts)
		}
		return st.parseWant(args, opts)
	case "handshake":
		st.Verb = v
		return st.parseHandshake(opts)
	case "mute":
		st.Verb, st.Side = v, arg(0)
		return nil
	case "forge":
		st.Verb, st.Side = v, arg(0)
		return st.parseForge(arg(1), arg(2), args[min(3, len(args)):])
	case "dropped":
		st.Verb, st.Arg = v, arg(0)
		return nil
	case "reopen":
		st.Verb = v
		n, err := strconv.ParseUint(arg(1), 10, 32)
		st.N = uint32(n)
		return err
	case "sync":
		st.Verb, st.Arg = v, arg(0)
		switch st.Arg {
		case "hold", "auto", "deliver", "confirm", "lost":
			return nil
		}
		return fmt.Errorf("sync what?")
	case "advance":
		st.Verb = v
		var err error
		st.Span, err = time.ParseDuration(arg(0))
		return err
	case "held":
		st.Verb = v
		n, err := strconv.ParseUint(arg(0), 10, 32)
		st.N = uint32(n)
		return err
	case "tick", "takeover", "rejoin", "gone", "settle":
		st.Verb = v
		return nil
	}
	return fmt.Errorf("unknown step")
}

// parseHandshake reads the options of the client's and the server's SYN.
func (st *Step) parseHandshake(opts []string) error {
	for i := range st.Opts {
		o, err := parseOpts("mss 1460,sackOK,TS,wscale 7", nil)
		if n := min(i, len(opts)-1); n >= 0 && err == nil {
			o, err = parseOpts(opts[n], nil)
		}
		if err != nil {
			return err
		}
		st.Opts[i] = o
	}
	return nil
}

// parseForge reads a segment that its peer does not send: flags, number, and pairs of words.
func (st *Step) parseForge(flags, number string, more []string) error {
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return err
	}
	st.Out.Seq, st.Out.Ack = n, Next
	if st.Out.Flags, err = parseFlags(flags); err != nil {
		return err
	}
	for i := 0; i+1 < len(more) && err == nil; i += 2 {
		n, err = strconv.ParseInt(more[i+1], 10, 64)
		switch more[i] {
		case "ack":
			st.Out.Ack = n
		case "len":
			st.Out.Len = int(n)
		case "ts":
			st.Out.Opts = &Opts{WScale: -1, TS: true, TSVal: uint32(n)}
		default:
			return fmt.Errorf("unknown word %q", more[i])
		}
	}
	return err
}

func (s *script) option(key, val string) error {
	n, err := strconv.Atoi(val)
	switch key {
	case "window":
		s.Options.Window = n
	case "sendbuffer":
		s.Options.SendBuffer = n
	case "minrto":
		s.Options.MinRTO = time.Duration(n) * time.Second
	case "held":
		s.Options.Limits.MaxHeldPerStream = uint64(n)
	case "family":
		s.Families = []int{n}
	case "source":
		s.Options.SourceGateway = val == "gateway"
		err = nil
	case "cookies":
		s.Options.Cookies = val == "yes"
		err = nil
	case "takeovers":
		s.Takeovers = val == "yes"
		err = nil
	default:
		return fmt.Errorf("unknown option")
	}
	return err
}

func (st *Step) parseSend(args, opts []string) error {
	st.Out = Out{Seq: Next, Ack: Next, Win: Next}
	if len(args) == 0 {
		return fmt.Errorf("no flags")
	}
	var err error
	if st.Out.Flags, err = parseFlags(args[0]); err != nil {
		return err
	}
	for i := 1; i < len(args); i++ {
		switch w := args[i]; {
		case w == "alt":
			st.Out.Alt = true
		case w == "bad":
			st.Out.BadCksum = true
		case w == "ack" && i+1 < len(args):
			i++
			st.Out.Ack, err = strconv.ParseInt(args[i], 10, 64)
		case w == "win" && i+1 < len(args):
			i++
			st.Out.Win, err = strconv.Atoi(args[i])
		default:
			var to int64
			st.Out.Seq, to, err = parseRange(w)
			st.Out.Len = int(to - st.Out.Seq)
		}
		if err != nil {
			return err
		}
	}
	for _, o := range opts {
		if st.Out.Opts, err = parseOpts(o, &st.Out.SACK); err != nil {
			return err
		}
	}
	return nil
}

func (st *Step) parseWant(args, opts []string) error {
	w := &st.Want
	var err error
	for i := 0; i < len(args); i++ {
		num := func() (n int64) {
			if i++; i >= len(args) {
				err = fmt.Errorf("number is missing")
				return 0
			}
			n, err = strconv.ParseInt(args[i], 10, 64)
			return n
		}
		switch a := args[i]; {
		case a == "alt":
			w.Alt = true
		case a == "again":
			w.Again = true
		case a == "ack":
			w.Ack = num()
		case a == "win":
			w.Win = int(num())
		case a == "edge":
			w.Edge = num()
		case a == "rcv":
			w.Rcv = num()
		case a == "resets":
			w.Resets = int(num())
		case a == "packets":
			w.Packets = int(num())
		case i == 0 && st.Verb == "expect":
			w.Flags, err = parseFlags(a)
		default:
			w.From, w.To, err = parseRange(a)
		}
		if err != nil {
			return err
		}
	}
	for _, o := range opts {
		if w.Opts, err = parseOpts(o, &w.SACK); err != nil {
			return err
		}
	}
	return nil
}

func parseFlags(s string) (f uint8, err error) {
	for _, c := range s {
		i := strings.IndexRune(flagLetters, c)
		if i < 0 {
			return 0, fmt.Errorf("unknown flag %q", c)
		}
		f |= 1 << i
	}
	return f, nil
}

// parseRange reads "from:to(len)" or "from:to".
func parseRange(s string) (from, to int64, err error) {
	body, length, has := strings.Cut(strings.TrimSuffix(s, ")"), "(")
	a, b, ok := strings.Cut(body, ":")
	if !ok {
		return 0, 0, fmt.Errorf("unknown word %q", s)
	}
	if from, err = strconv.ParseInt(a, 10, 64); err != nil {
		return 0, 0, err
	}
	if to, err = strconv.ParseInt(b, 10, 64); err != nil {
		return 0, 0, err
	}
	if has && length != strconv.FormatInt(to-from, 10) || to < from {
		return 0, 0, fmt.Errorf("range %q has %d bytes", s, to-from)
	}
	return from, to, nil
}

// parseOpts reads options; SACK blocks, being relative, go to sack, and if there
// is nothing else the options are nil: those that were negotiated.
func parseOpts(s string, sack *[][2]int64) (*Opts, error) {
	o := NoOpts
	any := false
	for _, f := range strings.Split(s, ",") {
		w := strings.Fields(f)
		if len(w) == 0 {
			continue
		}
		num := func(i int) (n uint32) {
			if i < len(w) {
				v, _ := strconv.ParseUint(w[i], 10, 32)
				n = uint32(v)
			}
			return n
		}
		if w[0] != "sack" {
			any = true
		}
		switch w[0] {
		case "mss":
			o.MSS = int(num(1))
		case "sackOK":
			o.SACKOK = true
		case "wscale":
			o.WScale = int(num(1))
		case "TS":
			o.TS, o.TSVal, o.TSEcr = true, num(2), num(4)
		case "ext":
			o.Ext = true
		case "none":
		case "raw":
			for _, h := range w[1:] {
				b, err := strconv.ParseUint(h, 16, 8)
				if err != nil {
					return nil, err
				}
				o.Raw = append(o.Raw, byte(b))
			}
		case "sack":
			for _, r := range w[1:] {
				a, b, err := parseRange(r)
				if err != nil || sack == nil {
					return nil, fmt.Errorf("SACK block %q", r)
				}
				*sack = append(*sack, [2]int64{a, b})
			}
		default:
			return nil, fmt.Errorf("unknown option %q", f)
		}
	}
	if !any {
		return nil, nil
	}
	return &o, nil
}
