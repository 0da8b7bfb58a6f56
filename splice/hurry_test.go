package splice

import (
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"pgregory.net/rapid"
)

// succession is a connection right after a takeover.
type succession struct {
	*rig
	h Hurry
}

// takeOver restores a connection with timestamps and SACK, of which only the record is known.
func takeOver(t tb, a Addrs) *succession {
	r := newRig(t, a)
	r.Restore(a, Params{ISN: [2]uint32{cISN, sISN}, MSS: [2]uint16{1460, 1460}, WS: [2]int8{7, 7}, TS: true, SACK: true}, 0)
	return &succession{rig: r}
}

// questions are how many leave to each side now.
func (k *succession) questions() (n [2]int) {
	k.t.Helper()
	var buf [MaxMade]byte
	for {
		b := k.h.Next(&k.Conn, k.now, buf[:])
		if b == nil {
			return n
		}
		whole(k.t, b, 0)
		n[k.toWhom(b)]++
	}
}

func (k *succession) toWhom(b []byte) Side {
	k.t.Helper()
	switch _, dst := addressesOf(b); dst {
	case k.a.Client:
		return Client
	case k.a.Server:
		return Server
	}
	k.t.Fatalf("made for somebody else: % x", b)
	return 0
}

// pass gives a segment to both, and returns what is made behind it.
func (k *succession) pass(from Side, s tcp, val, ecr uint32) (to Side, opts []byte, h header.TCP) {
	k.t.Helper()
	s.flags |= flagACK
	s.opts = append([]byte{1, 1, 8, 10}, byte(val>>24), byte(val>>16), byte(val>>8), byte(val), byte(ecr>>24), byte(ecr>>16), byte(ecr>>8), byte(ecr))
	k.want(EventNone, from, s)
	ipLen := 20
	if k.out[0]>>4 == 6 {
		ipLen = 40
	}
	t := header.TCP(k.out[ipLen:])
	var buf [MaxMade]byte
	to, b := k.h.Passed(&k.Conn, from, t[:t.DataOffset()], uint32(s.n), buf[:])
	if b == nil {
		return 0, nil, nil
	}
	whole(k.t, b, 0)
	if k.toWhom(b) != to {
		k.t.Fatalf("made for %v, not for %v", k.toWhom(b), to)
	}
	h = header.TCP(append([]byte(nil), b[ipLen:]...))
	return to, h[header.TCPMinimumSize:h.DataOffset()], h
}

const seg = 1448 // payload of full segments here

// A flight of many segments is lost: the sender is told once both have said where they are, and again
// with other segments while it does not send.
func TestHurryReportsLostFlight(t *testing.T) {
	for _, a := range []Addrs{addrs4, addrs6, own4} {
		for _, sender := range []Side{Client, Server} {
			k := takeOver(t, a)
			if n := k.questions(); n != [2]int{1, 1} {
				t.Fatalf("%v questions", n)
			}
			at, other := [2]uint32{cSeq, sSeq}, sender.Other()
			next := at[sender] + 10*seg
			if _, _, h := k.pass(sender, tcp{seq: next, ack: at[other], window: 500}, 7000, 3000); h != nil {
				t.Fatal("reported before the receiver has said where it is")
			}
			told := map[uint32]bool{}
			for range reportsMax {
				to, opts, h := k.pass(other, tcp{seq: at[other], ack: at[sender], window: 400}, 3010, 6990)
				if h == nil || to != sender {
					t.Fatalf("no report: %+v", k.h)
				}
				if h.SequenceNumber() != at[other] || h.AckNumber() != at[sender] || h.WindowSize() != 400 || h.Flags() != header.TCPFlagAck {
					t.Fatalf("% x", h)
				}
				if be32(opts[4:]) != 3010 || be32(opts[8:]) != 7000 { // the receiver's stamp, and what it echoes
					t.Fatalf("% x", opts)
				}
				from, to32 := be32(opts[16:])-at[sender], be32(opts[20:])-at[sender]
				if from < seg || from%seg != 0 || to32 <= from || to32 > 10*seg || told[from] {
					t.Fatalf("reported [%d, %d)", from, to32)
				}
				told[from] = true
				if _, _, h := k.pass(other, tcp{seq: at[other], ack: at[sender], window: 400}, 3010, 6990); h != nil {
					t.Fatal("reported twice at a time")
				}
				k.now = k.h.Due()
				if n := k.questions(); n != [2]int{1, 1} && len(told) < reportsMax {
					t.Fatalf("%v questions while nothing comes", n)
				}
			}
			if _, _, h := k.pass(other, tcp{seq: at[other], ack: at[sender], window: 400}, 3010, 6990); h != nil || !k.h.Done() {
				t.Fatalf("reported more than %d times, %+v", reportsMax, k.h)
			}
		}
	}
}

// What a sender does by itself is not disturbed, nor what nothing can be done for.
func TestHurryLeavesAlone(t *testing.T) {
	for name, x := range map[string]struct {
		first   *tcp // of the client, before all
		next    uint32
		echo    uint32
		quiet   bool // no SACK
		waiting bool
	}{
		"nothing is missing":      {next: cSeq},
		"less than two segments":  {next: cSeq + 2*seg - 1},
		"it sends again already":  {first: &tcp{seq: cSeq, ack: sSeq, n: seg, window: 500}, next: cSeq + 10*seg},
		"its time-out has struck": {next: cSeq + 10*seg, echo: 2800},
		"no SACK":                 {next: cSeq + 10*seg, quiet: true},
	} {
		k := takeOver(t, addrs4)
		k.sack = !x.quiet
		k.questions()
		if x.first != nil {
			k.pass(Client, *x.first, 6999, 3000)
		}
		if x.echo == 0 {
			x.echo = 3000
		}
		k.pass(Client, tcp{seq: x.next, ack: sSeq, window: 500}, 7000, x.echo)
		if _, _, h := k.pass(Server, tcp{seq: sSeq, ack: cSeq, window: 500}, 3010, 6990); h != nil || !k.h.Done() {
			t.Errorf("%s: told % x, %+v", name, h, k.h)
		}
	}
}

// An end that does not answer is asked again, for ten seconds; one that has is not.
func TestHurryAsksUntilAnswered(t *testing.T) {
	k := takeOver(t, addrs6)
	k.questions()
	k.pass(Client, tcp{seq: cSeq, ack: sSeq, window: 500}, 7000, 3000)
	begun, asked := k.now, 0
	for !k.h.Done() {
		if n := k.questions(); n != [2]int{} {
			t.Fatal("asked before it was due")
		}
		k.now = k.h.Due()
		n := k.questions()
		if n[Client] != 0 {
			t.Fatal("asked whoever has answered")
		}
		asked += n[Server]
	}
	if d := k.now - begun; asked != questionsMax-1 || d < 9*time.Second || d > 11*time.Second {
		t.Errorf("asked %d times in %v", asked, d)
	}
	k = takeOver(t, addrs4)
	k.questions()
	k.pass(Client, tcp{seq: cSeq, ack: sSeq, window: 500}, 7000, 3000)
	k.pass(Server, tcp{seq: sSeq, ack: cSeq, window: 500}, 3000, 7000)
	if !k.h.Done() {
		t.Error("both are there, and it goes on")
	}
}

// Whatever comes in whatever order: a report is of what its sender has in flight, never of the first segment, and
// acknowledges what the receiver has.
func TestHurryReportsWhatIsInFlight(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := takeOver(t, addrs4)
		next, have := [2]uint32{cSeq, sSeq}, [2]uint32{cSeq, sSeq} // of each stream: sent, received
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			from := rapid.SampledFrom([]Side{Client, Server}).Draw(t, "from")
			o := from.Other()
			s := tcp{seq: next[from], ack: have[o], window: rapid.Uint16Range(200, 1000).Draw(t, "window")}
			switch rapid.SampledFrom([]string{"ack", "send", "lose", "again", "time"}).Draw(t, "what") {
			case "time":
				k.now += time.Duration(rapid.IntRange(0, 300).Draw(t, "ms")) * time.Millisecond
				k.questions()
				continue
			case "send":
				s.n = rapid.IntRange(1, 3*seg).Draw(t, "bytes")
				if have[from] == next[from] {
					have[from] += uint32(s.n)
				}
				next[from] += uint32(s.n)
			case "again":
				s.seq, s.n = have[from], min(seg, int(next[from]-have[from]))
				have[from] += uint32(s.n)
			case "lose":
				next[from] += uint32(rapid.IntRange(0, 10*seg).Draw(t, "lost"))
				continue
			}
			to, opts, h := k.pass(from, s, 7000, 6990)
			if h == nil {
				continue
			}
			n := next[to] - have[to]
			first, last := be32(opts[16:])-have[to], be32(opts[20:])-have[to]
			if h.AckNumber() != have[to] || first < seg || last <= first || last > n {
				t.Fatalf("ack %d, reported [%d, %d) of %d in flight", h.AckNumber()-have[to], first, last, n)
			}
		}
	})
}
