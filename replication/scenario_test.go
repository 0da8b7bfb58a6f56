package replication

import (
	"bytes"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"lockstep/replication/wire"
)

// pair is an active "a" and a standby "s" with the frames between them.
type pair struct {
	node  map[string]*Core
	queue map[string][][]byte // by receiver
	now   Nanos
}

func newPair(lim Limits) *pair {
	return &pair{
		node:  map[string]*Core{"a": New(lim), "s": New(lim)},
		queue: map[string][][]byte{},
	}
}

// TestScenarios runs testdata/scenarios: traces of calls and what they answer.
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata/scenarios", func(t *testing.T, path string) {
		p := newPair(Limits{})
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var out strings.Builder
			p.command(t, d, &out)
			for _, name := range []string{"a", "s"} {
				if err := p.node[name].Check(); err != nil {
					fmt.Fprintf(&out, "CHECK %s: %v\n", name, err)
				}
			}
			if out.Len() == 0 {
				return "ok\n"
			}
			return out.String()
		})
	})
}

func say(out *strings.Builder, err error) {
	if err != nil {
		fmt.Fprintf(out, "error: %v\n", err)
	}
}

func testRecord(id uint64) *Record {
	leg := func(net byte) LegRecord {
		return LegRecord{
			Local:  netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, net, 0, 1}), 80),
			Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, net, 0, 2}), uint16(id)),
			ISS:    uint32(id), IRS: 77, MSS: 1460, OurMSS: 1460, PeerWS: 7, OurWS: -1, SACK: true,
		}
	}
	return &Record{ID: ConnID(id), Service: "web", Client: leg(1), Server: leg(2)}
}

func (p *pair) command(t *testing.T, d *datadriven.TestData, out *strings.Builder) {
	node := "a"
	scan(t, d, "on", &node)
	c := p.node[node]
	var id, off, epoch uint64 = 1, 0, 0
	var stream, bytes, kind string
	var limit int
	scan(t, d, "id", &id)
	scan(t, d, "off", &off)
	scan(t, d, "epoch", &epoch)
	scan(t, d, "stream", &stream)
	scan(t, d, "bytes", &bytes)
	scan(t, d, "kind", &kind)
	scan(t, d, "limit", &limit)
	s := Request
	if stream == "response" {
		s = Response
	}
	switch d.Cmd {
	case "new":
		p.reset(t, d)
	case "role":
		role := map[string]Role{"active": RoleActive, "standby": RoleStandby, "none": RoleNone}[kind]
		say(out, c.SetRole(role, epoch))
	case "join":
		say(out, p.node["a"].SetRole(RoleActive, 1))
		say(out, p.node["s"].SetRole(RoleStandby, 1))
		say(out, p.node["a"].PeerJoined(p.now, wire.Version))
		say(out, p.node["s"].PeerJoined(p.now, wire.Version))
		p.exchange(out)
		p.node["a"].Ready()
	case "joined":
		version := wire.Version
		scan(t, d, "version", &version)
		say(out, c.PeerJoined(p.now, uint8(version)))
	case "adopt":
		r := testRecord(id)
		r.Spliced = d.HasArg("spliced")
		say(out, c.Adopt(p.now, r, [2]StreamPos{streamPos(t, d, "request"), streamPos(t, d, "response")}, nil))
	case "terminate":
		say(out, c.Terminate(p.now, testRecord(id), [2]StreamPos{streamPos(t, d, "request"), streamPos(t, d, "response")}))
	case "may-terminate":
		fmt.Fprintln(out, c.MayTerminate())
	case "lost":
		c.PeerLost()
	case "open":
		r := testRecord(id)
		r.Logged, r.Spliced = d.HasArg("logged"), d.HasArg("spliced")
		say(out, c.Open(p.now, r))
	case "released":
		say(out, c.Released(p.now, ConnID(id), Released{End: off, Cut: d.HasArg("cut"), State: []byte(bytes)}))
	case "checkpoint":
		say(out, c.Checkpoint(p.now, ConnID(id), offsets(t, d, "at")))
	case "unlog":
		say(out, c.Unlog(p.now, ConnID(id)))
	case "leg":
		var server uint64
		scan(t, d, "server", &server)
		say(out, c.ServerLeg(p.now, ConnID(id), &testRecord(server).Server, offsets(t, d, "start")))
	case "data":
		say(out, c.Data(p.now, ConnID(id), s, off, []byte(bytes), d.HasArg("fin")))
	case "received":
		say(out, c.Received(p.now, ConnID(id), Response, off, d.HasArg("fin")))
	case "delivered":
		say(out, c.Delivered(p.now, ConnID(id), s, off))
	case "close":
		k := Aborted
		if kind == "finished" {
			k = Finished
		}
		say(out, c.Close(p.now, ConnID(id), k))
	case "advance":
		var ms int
		d.ScanArgs(t, "ms", &ms)
		p.now += Nanos(ms) * millisecond
		c.Tick(p.now)
	case "flush":
		p.flush(node, out)
	case "step":
		p.step(node, limit, out)
	case "exchange":
		p.exchange(out)
	case "ready":
		printReady(out, c.Ready())
	case "takeover":
		cont, err := c.Takeover(epoch)
		say(out, err)
		printContinued(out, cont)
	case "stats":
		printStats(out, c.Stats())
	case "protected":
		fmt.Fprintln(out, c.Protected(ConnID(id)))
	default:
		if !p.decide(c, d.Cmd, LifeID(id), kind, bytes, off, out) {
			t.Fatalf("%s: unknown command %q", d.Pos, d.Cmd)
		}
	}
}

// decide plays what concerns determinants.
func (p *pair) decide(c *Core, cmd string, id LifeID, kind, bytes string, off uint64, out *strings.Builder) bool {
	switch cmd {
	case "life":
		say(out, c.BeginLife(p.now, id, kind))
	case "decide":
		v, err := c.Decide(p.now, id, kind, []byte(bytes))
		if say(out, err); err == nil {
			fmt.Fprintf(out, "%d %q held=%v\n", v.Number, v.Value, v.Held)
		}
	case "forget":
		say(out, c.Forget(p.now, id, off))
	case "life-over":
		say(out, c.EndLife(p.now, id))
	case "lives":
		c.Lives(func(id LifeID, name string) { fmt.Fprintf(out, "%d %q\n", id, name) })
	default:
		return false
	}
	return true
}

// reset begins anew, with limits of its own.
func (p *pair) reset(t *testing.T, d *datadriven.TestData) {
	lim := Limits{}
	for _, a := range d.CmdArgs {
		v := 0
		d.ScanArgs(t, a.Key, &v)
		switch a.Key {
		case "conns":
			lim.MaxConns = v
		case "stream-bytes":
			lim.MaxHeldPerStream = uint64(v)
		case "total-bytes":
			lim.MaxHeldTotal = uint64(v)
		case "outstanding":
			lim.MaxOutstanding = v
		case "lives":
			lim.MaxLives = v
		case "decided-life":
			lim.MaxDecidedPerLife = v
		case "decided-total":
			lim.MaxDecidedTotal = v
		case "pending":
			lim.MaxPending = v
		case "tombstones":
			lim.MaxTombstones = v
		}
	}
	*p = *newPair(lim)
	for _, n := range []string{"a", "s"} {
		if d.HasArg("standby-conns") && n == "s" {
			lim.MaxConns = 1
			p.node[n] = New(lim)
		}
	}
}

// flush puts what node has to say into the other one's queue.
func (p *pair) flush(node string, out *strings.Builder) {
	c := p.node[node]
	if !c.Flushable() {
		out.WriteString("nothing\n")
		return
	}
	frames := splitFrames(c.Flush(nil))
	for _, f := range frames {
		out.WriteString(describe(f))
	}
	to := other(node)
	p.queue[to] = append(p.queue[to], frames...)
}

// step gives node the frames that wait for it; limit bounds them if it is not zero.
func (p *pair) step(node string, limit int, out *strings.Builder) {
	n := len(p.queue[node])
	if limit > 0 {
		n = min(n, limit)
	}
	for _, f := range p.queue[node][:n] {
		say(out, p.node[node].Step(p.now, f))
	}
	p.queue[node] = p.queue[node][n:]
}

func printContinued(out *strings.Builder, cont []Continue) {
	for _, k := range cont {
		fmt.Fprintf(out, "%d %s finished=%v", k.Record.ID, k.Record.Service, k.Finished)
		if k.Record.Spliced {
			out.WriteString(" spliced\n")
			continue
		}
		out.WriteByte('\n')
		for i, st := range k.Streams {
			var b []byte
			for _, x := range st.Bytes {
				b = append(b, x...)
			}
			fmt.Fprintf(out, "  %v D=%d C=%d %q fin=%v delivered=%v\n", Stream(i), st.Delivered, st.Held, b, st.Fin, st.FinDelivered)
		}
		printLog(out, &k)
	}
}

func printLog(out *strings.Builder, k *Continue) {
	if k.Record.Start != [2]uint64{} {
		fmt.Fprintf(out, "  server %v from %v\n", k.Record.Server.Remote, k.Record.Start)
	}
	if k.Log == nil {
		return
	}
	fmt.Fprintf(out, "  log from %v %q state %q segments to", k.Log.Checkpoint, bytes.Join(k.Log.Bytes, nil), k.Log.State)
	for _, g := range k.Log.Segments {
		fmt.Fprintf(out, " %d", g.End)
	}
	out.WriteByte('\n')
}

// offsets reads "key=(request,response)"; none is 0, 0.
func offsets(t *testing.T, d *datadriven.TestData, key string) (off [2]uint64) {
	t.Helper()
	if d.HasArg(key) {
		d.ScanArgs(t, key, &off[Request], &off[Response])
	}
	return off
}

// streamPos reads "request=(delivered,bytes,received,acked)", the bytes in the middle
// as a count; a trailing "fin" says that the stream ends at received.
func streamPos(t *testing.T, d *datadriven.TestData, key string) (p StreamPos) {
	t.Helper()
	for _, a := range d.CmdArgs {
		if a.Key != key {
			continue
		}
		if len(a.Vals) < 4 {
			t.Fatalf("%s: %s wants (delivered,bytes,received,acked[,fin])", d.Pos, key)
		}
		var v [4]uint64
		for i := range v {
			n, err := strconv.ParseUint(a.Vals[i], 10, 64)
			must(t, err)
			v[i] = n
		}
		p = StreamPos{Delivered: v[0], Received: v[2], Acked: v[3], Fin: len(a.Vals) > 4}
		if v[1] > 0 {
			p.Bytes = [][]byte{bytes.Repeat([]byte{'x'}, int(v[1]))}
		}
	}
	return p
}

func other(node string) string {
	if node == "a" {
		return "s"
	}
	return "a"
}

// exchange moves frames both ways until both sides are quiet.
func (p *pair) exchange(out *strings.Builder) {
	for busy := true; busy; {
		busy = false
		for _, n := range []string{"a", "s"} {
			for p.node[n].Flushable() {
				p.queue[other(n)] = append(p.queue[other(n)], splitFrames(p.node[n].Flush(nil))...)
			}
		}
		for _, n := range []string{"a", "s"} {
			for _, f := range p.queue[n] {
				busy = true
				say(out, p.node[n].Step(p.now, f))
			}
			p.queue[n] = nil
		}
	}
}

func splitFrames(b []byte) [][]byte {
	var frames [][]byte
	for len(b) > 0 {
		n, err := wire.FrameLen(b)
		if err != nil || n > len(b) {
			panic(fmt.Sprintf("a core wrote a bad frame: %v", err))
		}
		frames = append(frames, b[:n])
		b = b[n:]
	}
	return frames
}

func describe(frame []byte) string {
	h, payload, err := wire.Decode(frame)
	if err != nil {
		return err.Error() + "\n"
	}
	var out strings.Builder
	fmt.Fprintf(&out, "%v epoch=%d index=%d\n", h.Type, h.Epoch, h.Index)
	switch h.Type {
	case wire.TypeBatch:
		es := wire.NewEntries(payload)
		var e wire.Entry
		for {
			more, err := es.Next(&e)
			if err != nil || !more {
				break
			}
			switch e.Kind {
			case wire.EntrySynced:
				out.WriteString("  synced\n")
			case wire.EntryOpen:
				fmt.Fprintf(&out, "  open %d %s\n", e.ID, e.Record.Service)
			case wire.EntrySplice:
				fmt.Fprintf(&out, "  splice %d %s\n", e.ID, e.Record.Service)
			case wire.EntryTerminate:
				fmt.Fprintf(&out, "  terminate %d %s delivered %v fin=%v\n", e.ID, e.Record.Service, e.Delivered, e.FinDelivered)
			case wire.EntryAdopt:
				fmt.Fprintf(&out, "  adopt %d %s delivered %v end %v fin=%v\n", e.ID, e.Record.Service, e.Delivered, e.End, e.FinDelivered)
			case wire.EntryData:
				fmt.Fprintf(&out, "  data %d %v %d %q fin=%v\n", e.ID, e.Stream, e.Off, e.Data, e.Fin)
			case wire.EntryDelivered:
				fmt.Fprintf(&out, "  delivered %d %v fin=%v\n", e.ID, e.Delivered, e.FinDelivered)
			case wire.EntryClose:
				fmt.Fprintf(&out, "  close %d %v\n", e.ID, e.Close)
			case wire.EntryLeg:
				fmt.Fprintf(&out, "  leg %d %v start %v\n", e.ID, e.Record.Server.Remote, e.Start)
			case wire.EntryLog:
				fmt.Fprintf(&out, "  log %d %v\n", e.ID, e.Checkpoint)
			case wire.EntryReleased:
				fmt.Fprintf(&out, "  released %d %d cut=%v %q\n", e.ID, e.Released.End, e.Released.Cut, e.Released.State)
			case wire.EntryCheckpoint:
				fmt.Fprintf(&out, "  checkpoint %d %v\n", e.ID, e.Checkpoint)
			case wire.EntryUnlog:
				fmt.Fprintf(&out, "  unlog %d\n", e.ID)
			case wire.EntryLife:
				fmt.Fprintf(&out, "  life %d %q\n", e.Decided.Life, e.LifeName)
			case wire.EntryDecided:
				fmt.Fprintf(&out, "  decided %d %d %q %q\n", e.Decided.Life, e.Decided.Number, e.Decided.Key, e.Decided.Value)
			case wire.EntryForgotten:
				fmt.Fprintf(&out, "  forgotten %d %d\n", e.Decided.Life, e.Decided.Number)
			case wire.EntryLifeOver:
				fmt.Fprintf(&out, "  life over %d\n", e.Decided.Life)
			}
		}
	case wire.TypeAck:
		if ids, _ := wire.DecodeAck(nil, payload); len(ids) > 0 {
			fmt.Fprintf(&out, "  refused %v\n", ids)
		}
	case wire.TypeHeartbeat:
		hb, _ := wire.DecodeHeartbeat(h.Version, payload)
		fmt.Fprintf(&out, "  clock %d\n", hb.ClockMillis)
	}
	return out.String()
}

func printReady(out *strings.Builder, r *Ready) {
	if r.empty() {
		out.WriteString("nothing\n")
	}
	for _, id := range r.Unprotected {
		fmt.Fprintf(out, "unprotected %d\n", id)
	}
	for _, id := range r.Opened {
		fmt.Fprintf(out, "opened %d\n", id)
	}
	for _, id := range r.Legs {
		fmt.Fprintf(out, "leg %d\n", id)
	}
	for _, id := range r.Unlogged {
		fmt.Fprintf(out, "unlogged %d\n", id)
	}
	for _, h := range r.Held {
		fmt.Fprintf(out, "held %d below %d\n", h.Life, h.Below)
	}
	for _, m := range r.Permits {
		fmt.Fprintf(out, "permit %d %v %d\n", m.ID, m.Stream, m.Off)
	}
	for _, id := range r.Adopt {
		fmt.Fprintf(out, "adopt %d\n", id)
	}
	for _, n := range r.Need {
		fmt.Fprintf(out, "need %d %v %d..%d\n", n.ID, n.Stream, n.From, n.To)
	}
}

func printStats(out *strings.Builder, s Stats) {
	fmt.Fprintf(out, "%v epoch=%d joined=%v in-sync=%v %q\n", s.Role, s.Epoch, s.PeerJoined, s.InSync, s.Why)
	if s.SnapshotTotal > 0 {
		fmt.Fprintf(out, "snapshot %d of %d\n", s.SnapshotDone, s.SnapshotTotal)
	}
	fmt.Fprintf(out, "connections=%d protected=%d unprotected=%d tombstones=%d lag=%d outstanding=%d held=%d\n",
		s.Connections, s.Protected, s.Unprotected, s.Tombstones, s.LagBytes, s.Outstanding, s.HeldBytes)
	if s.Lives > 0 {
		fmt.Fprintf(out, "lives=%d decided=%d bytes\n", s.Lives, s.DecidedBytes)
	}
	if s.Logged > 0 {
		fmt.Fprintf(out, "logged=%d\n", s.Logged)
	}
	for i, n := range s.Drops {
		if n > 0 {
			fmt.Fprintf(out, "%v=%d\n", Reason(i), n)
		}
	}
}

// scan reads an argument if it is there.
func scan(t *testing.T, d *datadriven.TestData, key string, v any) {
	t.Helper()
	if d.HasArg(key) {
		d.ScanArgs(t, key, v)
	}
}
