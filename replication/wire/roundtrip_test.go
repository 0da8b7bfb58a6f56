package wire

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func drawAddr(t *rapid.T, label string) netip.AddrPort {
	var a netip.Addr
	switch rapid.IntRange(0, 2).Draw(t, label+" family") {
	case 1:
		a = netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, label)))
	case 2:
		a = netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, label)))
	}
	return netip.AddrPortFrom(a, rapid.Uint16().Draw(t, label+" port"))
}

func drawLeg(t *rapid.T) LegRecord {
	return LegRecord{
		Local: drawAddr(t, "local"), Remote: drawAddr(t, "remote"),
		ISS: rapid.Uint32().Draw(t, "iss"), IRS: rapid.Uint32().Draw(t, "irs"),
		MSS: rapid.Uint16().Draw(t, "mss"), OurMSS: rapid.Uint16().Draw(t, "our mss"),
		PeerWS: int8(rapid.IntRange(-1, maxWindowScale).Draw(t, "peer ws")),
		OurWS:  int8(rapid.IntRange(-1, maxWindowScale).Draw(t, "our ws")),
		SACK:   rapid.Bool().Draw(t, "sack"), TS: rapid.Bool().Draw(t, "ts"),
		TSOffset: rapid.Uint32().Draw(t, "ts offset"), PeerTS: rapid.Uint32().Draw(t, "peer ts"),
		RTTMicros: rapid.Uint32().Draw(t, "rtt"),
	}
}

func drawEntry(t *rapid.T) Entry {
	e := Entry{Kind: EntryKind(rapid.IntRange(1, 17).Draw(t, "kind"))}
	if e.Kind != EntrySynced && e.Kind < EntryLife {
		e.ID = ConnID(rapid.Uint64().Draw(t, "id"))
	}
	switch e.Kind {
	case EntryOpen, EntryAdopt, EntrySplice, EntryTerminate:
		name := rapid.SliceOfN(rapid.Byte(), 0, MaxService).Draw(t, "service")
		e.Record = Record{ID: e.ID, Service: string(name), Client: drawLeg(t), Server: drawLeg(t), Spliced: e.Kind == EntrySplice}
	case EntryData:
		e.Stream = Stream(rapid.IntRange(0, 1).Draw(t, "stream"))
		e.Off = rapid.Uint64().Draw(t, "off")
		e.Data = rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, "data")
		e.Fin = rapid.Bool().Draw(t, "fin")
	}
	switch e.Kind {
	case EntryAdopt:
		e.End = [2]uint64{rapid.Uint64().Draw(t, "req end"), rapid.Uint64().Draw(t, "resp end")}
		fallthrough
	case EntryDelivered, EntryTerminate:
		e.Delivered = [2]uint64{rapid.Uint64().Draw(t, "req"), rapid.Uint64().Draw(t, "resp")}
		e.FinDelivered = [2]bool{rapid.Bool().Draw(t, "req fin"), rapid.Bool().Draw(t, "resp fin")}
	case EntryClose:
		e.Close = CloseKind(rapid.IntRange(1, 3).Draw(t, "close"))
	case EntryLife:
		e.LifeName = string(rapid.SliceOfN(rapid.Byte(), 0, MaxLifeName).Draw(t, "life"))
	case EntryDecided:
		e.Decided.Key = rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "key")
		e.Decided.Value = rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "value")
		fallthrough
	case EntryForgotten:
		e.Decided.Number = rapid.Uint64().Draw(t, "number")
	case EntryLeg:
		e.Record.Server = drawLeg(t)
		e.Start = drawOffsets(t)
	case EntryLog, EntryCheckpoint:
		e.Checkpoint = drawOffsets(t)
	case EntryReleased:
		e.Released = Released{End: rapid.Uint64().Draw(t, "released"), Cut: rapid.Bool().Draw(t, "cut")}
		copy(e.Released.Sum[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "sum"))
		e.Released.State = append([]byte(nil), rapid.SliceOfN(rapid.Byte(), 0, MaxState).Draw(t, "state")...)
	}
	if e.Kind >= EntryLife {
		e.Decided.Life = LifeID(rapid.Uint64().Draw(t, "life"))
	}
	return e
}

func drawOffsets(t *rapid.T) [2]uint64 {
	return [2]uint64{rapid.Uint64().Draw(t, "request"), rapid.Uint64().Draw(t, "response")}
}

// TestFits: what a version has no entries for is not to be sent in it.
func TestFits(t *testing.T) {
	for _, tc := range []struct {
		version uint8
		start   [2]uint64
		spliced bool
		want    bool
	}{
		{1, [2]uint64{}, false, true}, {2, [2]uint64{}, false, true}, {3, [2]uint64{}, false, true},
		{1, [2]uint64{1, 0}, false, false}, {2, [2]uint64{0, 1}, false, false}, {3, [2]uint64{1, 1}, false, true},
		{4, [2]uint64{}, true, false}, {5, [2]uint64{}, true, true},
	} {
		r := Record{Logged: !tc.spliced, Start: tc.start, Spliced: tc.spliced}
		if got := r.Fits(tc.version); got != tc.want {
			t.Errorf("%+v: %v", tc, got)
		}
	}
	if err := (&Released{State: make([]byte, MaxState+1)}).Validate(); !errors.Is(err, ErrState) {
		t.Error(err)
	}
}

// TestRoundTrip: what is encoded is decoded exactly, and nothing is larger than the
// constants promise.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOfN(rapid.Custom(drawEntry), 0, 20).Draw(t, "entries")
		for i := range want {
			limit := MaxSmallEntry
			if want[i].Kind == EntryData {
				limit = MaxDataOverhead + len(want[i].Data)
			}
			if n := len(encodeAll(want[i : i+1])); n > limit {
				t.Fatalf("entry of %d bytes: %+v", n, want[i])
			}
		}
		h := Header{Version: Version, Type: TypeBatch, Epoch: rapid.Uint64().Draw(t, "epoch"), Index: rapid.Uint64().Draw(t, "index")}
		prefix := rapid.SliceOfN(rapid.Byte(), 0, 3).Draw(t, "before")
		f := append(Begin(bytes.Clone(prefix)), encodeAll(want)...)
		Finish(f, len(prefix), h)
		gotHeader, payload, err := Decode(f[len(prefix):])
		if err != nil || gotHeader != h {
			t.Fatalf("%+v, %v", gotHeader, err)
		}
		got, err := decodeAll(payload)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmpAddr); len(want)+len(got) > 0 && diff != "" {
			t.Fatal(diff)
		}
		ids := rapid.SliceOf(rapid.Custom(func(t *rapid.T) ConnID { return ConnID(rapid.Uint64().Draw(t, "id")) })).Draw(t, "refused")
		if err := reencode(AppendAck(nil, Version, h.Epoch, h.Index, ids)); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzDecode: no input panics, and what is accepted is the only encoding of itself.
// Mutations rarely keep a checksum right, so the input is also tried with it mended.
func FuzzDecode(f *testing.F) {
	for version := uint8(MinVersion); version <= Version; version++ {
		for _, frame := range goldenFrames(version) {
			f.Add(frame)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		check := func(frame []byte) {
			if err := reencode(frame); err != nil && err.Error() == "encoding again gives other bytes" {
				t.Fatalf("%v: % x", err, frame)
			}
		}
		check(b)
		if len(b) >= HeaderLen && len(b) <= MaxFrame {
			mended := bytes.Clone(b)
			Finish(mended, 0, Header{Version: Version, Type: Type(b[5]), Epoch: uint64(b[15]), Index: uint64(b[23])})
			check(mended)
		}
	})
}

func BenchmarkAppendData(b *testing.B) {
	data := make([]byte, 1400)
	buf := make([]byte, 0, 4096)
	b.ReportAllocs()
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		buf = AppendData(buf[:0], 1, Request, 1<<30, data, false)
	}
}

func BenchmarkDecode(b *testing.B) {
	f := Begin(nil)
	for i := range 40 {
		f = AppendData(f, ConnID(i), Request, 1<<30, make([]byte, 1400), false)
		f = AppendDelivered(f, ConnID(i), [2]uint64{1 << 30, 5}, [2]bool{})
	}
	Finish(f, 0, Header{Version: Version, Type: TypeBatch, Epoch: 1, Index: 1})
	b.ReportAllocs()
	b.SetBytes(int64(len(f)))
	var e Entry
	for b.Loop() {
		_, payload, err := Decode(f)
		if err != nil {
			b.Fatal(err)
		}
		es := NewEntries(payload)
		for {
			more, err := es.Next(&e)
			if err != nil {
				b.Fatal(err)
			}
			if !more {
				break
			}
		}
	}
}
