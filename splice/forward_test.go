package splice

import (
	"bytes"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// There and back is the same packet, whatever is in it; half-way its checksums are right.
func TestThereAndBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.SampledFrom([]Addrs{addrs4, addrs6, own4, own6}).Draw(t, "addresses")
		from := rapid.SampledFrom([]Side{Client, Server}).Draw(t, "from")
		s := tcp{
			flags: rapid.Uint8().Draw(t, "flags") &^ (flagSYN | flagRST), seq: rapid.Uint32().Draw(t, "seq"), ack: rapid.Uint32().Draw(t, "ack"),
			window: rapid.Uint16().Draw(t, "window"), opts: rapid.SliceOfN(rapid.Byte(), 0, 37).Draw(t, "options"),
			n: rapid.IntRange(0, 3000).Draw(t, "payload"), vnet: rapid.Uint8Range(0, 3).Draw(t, "vnet"),
		}
		b := packet(a, from, s)
		was := bytes.Clone(b)
		ipLen := 20
		if b[0]>>4 == 6 {
			ipLen = 40
		}
		var there, back Conn
		there.Init(a, 0)
		back.Init(Addrs{Client: a.Local, VIP: a.Server, Local: a.Client, Server: a.VIP}, 0)
		if v := there.Forward(from, []byte{s.vnet}, b, ipLen, len(b), 0); v != (Verdict{}) {
			t.Fatal(v)
		}
		whole(t, b, s.vnet)
		if v := back.Forward(from, []byte{s.vnet}, b, ipLen, len(b), 0); v != (Verdict{}) {
			t.Fatal(v)
		}
		if !bytes.Equal(b, was) {
			t.Fatalf("% x\nwas\n% x", b, was)
		}
	})
}

// A damaged packet stays one: its receiver finds out.
func TestDamageIsNotMended(t *testing.T) {
	b := packet(own4, Client, tcp{flags: flagACK, n: 100})
	b[70] ^= 4
	var c Conn
	c.Init(own4, 0)
	c.Forward(Client, []byte{0}, b, 20, len(b), 0)
	b[70] ^= 4
	whole(t, b, 0)
}

func TestSYNOptions(t *testing.T) {
	ts := []byte{8, 10, 0, 0, 0, 9, 0, 0, 0, 0}
	for _, x := range []struct {
		name     string
		in, want []byte
		drop     Reason
		mss      uint16
	}{
		{"clamped", []byte{2, 4, 0x23, 0x28}, []byte{2, 4, 5, 0xb4}, 0, 1460},
		{"small enough", []byte{2, 4, 2, 0x18}, []byte{2, 4, 2, 0x18}, 0, 536},
		{"none", nil, nil, 0, 536},
		{"at an odd place", []byte{1, 2, 4, 0x23, 0x28}, []byte{1, 2, 4, 5, 0xb4, 1, 1, 1}, 0, 1460},
		{"zero", []byte{2, 4, 0, 0}, []byte{2, 4, 0, 0}, 0, 536},
		{"all that netstack has", append([]byte{2, 4, 5, 0xb4, 4, 2, 3, 3, 14}, ts...), append([]byte{2, 4, 5, 0xb4, 4, 2, 3, 3, 14}, ts...), 0, 1460},
		{"fast open", []byte{34, 6, 1, 2, 3, 4, 2, 4, 5, 0xb4}, []byte{1, 1, 1, 1, 1, 1, 2, 4, 5, 0xb4}, 0, 1460},
		{"multipath", []byte{30, 4, 0, 1}, []byte{1, 1, 1, 1}, 0, 536},
		{"behind the end", []byte{2, 4, 5, 0xb4, 0, 34, 2, 9}, []byte{2, 4, 5, 0xb4, 0, 34, 2, 9}, 0, 1460},
		{"signed", []byte{19, 18, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, nil, DropSigned, 0},
		{"AO", []byte{29, 4, 0, 1}, nil, DropSigned, 0},
		{"lies", []byte{2, 40, 5, 0xb4}, nil, DropOptions, 0},
		{"too short", []byte{2, 4, 5, 0xb4, 8, 1, 1, 1}, nil, DropOptions, 0},
	} {
		for _, vnet := range []byte{0, vnetNeedsCsum} {
			r := newRig(t, own4)
			r.Init(own4, 1460)
			v := r.send(Client, tcp{flags: flagSYN, opts: x.in, vnet: vnet})
			if v.Drop != x.drop {
				t.Errorf("%s: %v", x.name, v.Drop)
			} else if v.Drop == DropNone {
				got := r.out[40:]
				if !bytes.HasPrefix(got, x.want) || r.Params().MSS[Client] != x.mss {
					t.Errorf("%s: % x, MSS %d", x.name, got, r.Params().MSS[Client])
				}
			}
		}
	}
}

// The parameters are what both have agreed on.
func TestParams(t *testing.T) {
	r := newRig(t, addrs6)
	r.Init(addrs6, 1400)
	r.want(EventSYN, Client, tcp{flags: flagSYN, seq: 5, opts: []byte{2, 4, 5, 0xb4, 4, 2, 3, 3, 15, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0}})
	r.want(EventSYNACK, Server, tcp{flags: flagSYN | flagACK, seq: 9, ack: 6, opts: []byte{2, 4, 5, 0, 3, 3, 2, 4, 2}})
	want := Params{ISN: [2]uint32{5, 9}, MSS: [2]uint16{1400, 1280}, WS: [2]int8{14, 2}, SACK: true}
	if r.Params() != want {
		t.Fatalf("%+v, want %+v", r.Params(), want)
	}
	var c Conn
	if c.Restore(addrs6, want, 1400); c.Params() != want || c.Addrs() != addrs6 || c.State() != Open || c.Located() {
		t.Fatalf("%+v", c)
	}
	r = newRig(t, addrs4)
	r.want(EventSYN, Client, tcp{flags: flagSYN, seq: 5, opts: []byte{3, 3, 7}})
	r.want(EventSYNACK, Server, tcp{flags: flagSYN | flagACK, seq: 9, ack: 6})
	if p := r.Params(); p.WS != [2]int8{-1, -1} {
		t.Fatalf("one side's window scale counts: %+v", p)
	}
}

func TestMalformed(t *testing.T) {
	b := packet(addrs4, Client, tcp{flags: flagACK, n: 10})
	var c Conn
	c.Init(addrs4, 0)
	for _, x := range []struct {
		vnet         []byte
		cut, ip, tot int
	}{{nil, 50, 20, 50}, {[]byte{0}, 39, 20, 50}, {[]byte{0}, 50, 0, 50}, {[]byte{0}, 50, 31, 50}, {[]byte{0}, 50, 20, 39}, {[]byte{0}, 0, 20, 0}} {
		if v := c.Forward(Client, x.vnet, b[:x.cut], x.ip, x.tot, 0); v.Drop != DropMalformed {
			t.Errorf("%+v: %v", x, v)
		}
	}
}

func TestForwardAllocatesNothing(t *testing.T) {
	r := newRig(t, own6)
	r.open()
	b := packet(own6, Client, tcp{flags: flagACK, seq: cSeq, ack: sSeq, n: 1400})
	vnet := []byte{0}
	if n := testing.AllocsPerRun(100, func() { r.Forward(Client, vnet, b, 40, len(b), time.Hour) }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func FuzzForward(f *testing.F) {
	f.Add(packet(addrs4, Client, tcp{flags: flagSYN, opts: []byte{2, 4, 5, 0xb4}}), true, byte(0))
	f.Add(packet(own4, Server, tcp{flags: flagACK | flagFIN, n: 9}), false, byte(1))
	f.Add(packet(own4, Server, tcp{flags: flagRST}), false, byte(0))
	f.Fuzz(func(t *testing.T, b []byte, client bool, vnet byte) {
		from := Server
		if client {
			from = Client
		}
		var c Conn
		c.Init(own4, 1300)
		ok := len(b) >= 40 && b[0] == 0x45 && len(b) < 60000
		if ok { // make it whole, to see whether it stays so
			src, dst := own4.Client, own4.VIP
			if from == Server {
				src, dst = own4.Server, own4.Local
			}
			copy(b[12:], src.Addr().AsSlice())
			copy(b[16:], dst.Addr().AsSlice())
			put16(b[20:], src.Port())
			put16(b[22:], dst.Port())
			put16(b[10:], 0)
			put16(b[10:], ^sumOf(b[:20]))
			put16(b[36:], 0)
			put16(b[36:], pseudo(b, 20))
			if vnet&vnetNeedsCsum == 0 {
				put16(b[36:], 0)
				put16(b[36:], ^add16(sumAll(b[20:]), pseudo(b, 20)))
			}
		}
		for range 3 {
			p := bytes.Clone(b)
			if v := c.Forward(from, []byte{vnet}, p, 20, len(p), time.Second); ok && v.Drop == DropNone && v.Event != EventReused {
				whole(t, p, vnet)
			}
			c.Ask(time.Minute)
		}
	})
}

// sumAll is sumOf for any length.
func sumAll(b []byte) uint16 {
	if len(b)%2 == 0 {
		return sumOf(b)
	}
	return sumOf(append(bytes.Clone(b), 0))
}

func BenchmarkForward(b *testing.B) {
	ts := []byte{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 1}
	for _, x := range []struct {
		name string
		a    Addrs
		n    int
		vnet byte
	}{{"v4/ack", addrs4, 0, 0}, {"v4/1448", addrs4, 1448, 0}, {"v4/superpacket", addrs4, 64000, 1}, {"v6/1428", own6, 1428, 0}} {
		b.Run(x.name, func(b *testing.B) {
			r := newRig(b, x.a)
			r.open()
			p := packet(x.a, Client, tcp{flags: flagACK, seq: cSeq, ack: sSeq, n: x.n, opts: ts, window: 512, vnet: x.vnet})
			ipLen, vnet := 20, []byte{x.vnet}
			if p[0]>>4 == 6 {
				ipLen = 40
			}
			ack := packet(x.a, Server, tcp{flags: flagACK, seq: sSeq, ack: cSeq, opts: ts, window: 2000})
			head, ackHead, back := bytes.Clone(p[:ipLen+32]), bytes.Clone(ack), 0
			b.ReportAllocs()
			for b.Loop() {
				copy(p, head)
				put32 := func(o int, v uint32) { put16(p[o:], uint16(v>>16)); put16(p[o+2:], uint16(v)) }
				back++
				put32(ipLen+4, cSeq+uint32(back*x.n))
				r.Forward(Client, vnet, p, ipLen, len(p), time.Hour)
				if back%2 == 0 {
					copy(ack, ackHead)
					next := cSeq + uint32((back+1)*x.n)
					put16(ack[ipLen+8:], uint16(next>>16))
					put16(ack[ipLen+10:], uint16(next))
					r.Forward(Server, vnet[:1], ack, ipLen, len(ack), time.Hour)
				}
			}
			if r.Position(Client).Bytes != uint64(back*x.n+x.n) && x.n > 0 && r.Position(Client).Next != cSeq+uint32((back+1)*x.n) {
				b.Fatalf("%+v after %d", r.Position(Client), back)
			}
		})
	}
}
