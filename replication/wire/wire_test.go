package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var cmpAddr = cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })

func sampleRecord() Record {
	return Record{
		ID:      7<<32 | 42,
		Service: "web",
		Client: LegRecord{
			Local: netip.MustParseAddrPort("203.0.113.10:80"), Remote: netip.MustParseAddrPort("198.51.100.7:51234"),
			ISS: 0x01020304, IRS: 0xfffffff0, MSS: 1460, OurMSS: 1448, PeerWS: 7, OurWS: 9,
			SACK: true, TS: true, TSOffset: 0xdeadbeef, PeerTS: 0xcafe, RTTMicros: 350,
		},
		Server: LegRecord{
			Local: netip.MustParseAddrPort("[2001:db8::7]:51234"), Remote: netip.MustParseAddrPort("[2001:db8::10]:80"),
			ISS: 1, IRS: 2, MSS: 1220, OurMSS: 1440, PeerWS: -1, OurWS: -1,
		},
	}
}

// encodeAll writes entries as a batch's payload.
func encodeAll(entries []Entry) []byte {
	var b []byte
	for i := range entries {
		e := &entries[i]
		switch e.Kind {
		case EntrySynced:
			b = AppendSynced(b)
		case EntryOpen:
			b = AppendOpen(b, &e.Record)
		case EntryData:
			b = AppendData(b, e.ID, e.Stream, e.Off, e.Data, e.Fin)
		case EntryDelivered:
			b = AppendDelivered(b, e.ID, e.Delivered, e.FinDelivered)
		case EntryClose:
			b = AppendClose(b, e.ID, e.Close)
		case EntryAdopt:
			b = AppendAdopt(b, &e.Record, e.Delivered, e.End, e.FinDelivered)
		case EntryLeg:
			b = AppendLeg(b, e.ID, &e.Record.Server, e.Start)
		case EntryLog:
			b = AppendLog(b, e.ID, e.Checkpoint)
		case EntryReleased:
			b = AppendReleased(b, e.ID, &e.Released)
		case EntryCheckpoint:
			b = AppendCheckpoint(b, e.ID, e.Checkpoint)
		case EntrySplice:
			b = AppendSplice(b, &e.Record)
		case EntryTerminate:
			b = AppendTerminate(b, &e.Record, e.Delivered, e.FinDelivered)
		case EntryUnlog:
			b = AppendUnlog(b, e.ID)
		case EntryLife:
			b = AppendLife(b, e.Decided.Life, e.LifeName)
		case EntryDecided:
			b = AppendDecided(b, &e.Decided)
		case EntryForgotten:
			b = AppendForgotten(b, e.Decided.Life, e.Decided.Number)
		case EntryLifeOver:
			b = AppendLifeOver(b, e.Decided.Life)
		}
	}
	return b
}

// decodeAll reads a batch's payload; the entries share nothing.
func decodeAll(payload []byte) ([]Entry, error) {
	var all []Entry
	es := NewEntries(payload)
	for {
		var e Entry
		more, err := es.Next(&e)
		if err != nil || !more {
			return all, err
		}
		e.Data = bytes.Clone(e.Data)
		e.Released.State = append([]byte(nil), e.Released.State...)
		e.Decided.Key, e.Decided.Value = bytes.Clone(e.Decided.Key), bytes.Clone(e.Decided.Value)
		all = append(all, e)
	}
}

// goldenFrames are those that testdata/golden holds for a version.
func goldenFrames(version uint8) map[string][]byte {
	rec := sampleRecord()
	batch := Begin(nil)
	if version >= 2 {
		old := rec
		old.ID = 3<<32 | 1
		batch = AppendAdopt(batch, &old, [2]uint64{700, 1 << 33}, [2]uint64{700, 1<<33 + 2}, [2]bool{true, false})
		batch = AppendData(batch, old.ID, Response, 1<<33, []byte("ab"), false)
	}
	batch = AppendSynced(batch)
	batch = AppendOpen(batch, &rec)
	batch = AppendData(batch, rec.ID, Request, 0, []byte("GET / HTTP/1.1\r\n\r\n"), true)
	batch = AppendData(batch, rec.ID, Response, 300, []byte{0, 255}, false)
	batch = AppendDelivered(batch, rec.ID, [2]uint64{19, 302}, [2]bool{true, false})
	if version >= 3 {
		leg := rec.Server
		leg.ISS, leg.Remote = 0xfffffffe, netip.MustParseAddrPort("10.20.0.12:80")
		batch = AppendLeg(batch, rec.ID, &leg, [2]uint64{19, 300})
		batch = AppendLog(batch, 5, [2]uint64{0, 0})
		batch = AppendReleased(batch, 5, &Released{End: 1 << 21, Sum: Digest{0: 0xd1, 15: 0x6e}, Cut: true, State: []byte("between")})
		batch = AppendReleased(batch, 5, &Released{End: 1<<21 + 7, Sum: Digest{1}})
		batch = AppendCheckpoint(batch, 5, [2]uint64{300, 1 << 21})
		batch = AppendUnlog(batch, 5)
	}
	if version >= 5 {
		passed := rec
		passed.ID, passed.Spliced = 9, true
		batch = AppendSplice(batch, &passed)
	}
	if version >= 6 {
		ended := rec
		ended.ID = 9
		batch = AppendTerminate(batch, &ended, [2]uint64{1, 1 << 14}, [2]bool{false, true})
		batch = AppendLife(batch, 1<<63|7, "web start")
		batch = AppendDecided(batch, &Decided{Life: 1<<63 | 7, Number: 300, Key: []byte("clock"), Value: []byte{0, 255}})
		batch = AppendForgotten(batch, 1<<63|7, 300)
		batch = AppendLifeOver(batch, 1<<63|7)
	}
	batch = AppendClose(batch, rec.ID, Aborted)
	Finish(batch, 0, Header{Version: version, Type: TypeBatch, Epoch: 3, Index: 1 << 40})
	hello, err := AppendHello(nil, &Hello{
		MinVersion: 1, MaxVersion: 1, Pair: "edge", Node: "a", Role: RoleStandby, InSync: true,
		Epoch: 9, BootID: [16]byte{1, 2, 3, 15: 16}, Holds: 0x0102030405060708,
	})
	if err != nil {
		panic(err)
	}
	voterHello, err := AppendVoterHello(nil, &VoterHello{
		MinVersion: 1, MaxVersion: 1, Pair: "edge", Node: "w", Boot: 0x0102030405060708, FailureTimeout: 100_000_000,
	})
	if err != nil {
		panic(err)
	}
	voterMessage, err := AppendVoterMessage(nil, 1, []byte("vote"))
	if err != nil {
		panic(err)
	}
	frames := map[string][]byte{
		"voter-hello":   voterHello,
		"voter-message": voterMessage,
		"batch":         batch,
		"ack":           AppendAck(nil, version, 3, 5, []ConnID{1, 300}),
		"ack-empty":     AppendAck(nil, version, 3, 5, nil),
		"heartbeat":     AppendHeartbeat(nil, version, 3, 17, Heartbeat{ClockMillis: 0xfffffffe, WaitMicros: 330_000, MuteMicros: 500_000}),
		"heartbeat-ack": AppendHeartbeatAck(nil, version, 3, 17),
		"hello":         hello,
		"reject":        AppendReject(nil, Reject{Code: RejectPair, Text: `this is pair "edge"`}),
	}
	if version >= 4 {
		frames["fitness"] = AppendFitness(nil, version, 3, &Fitness{
			Faults:   []string{"eth0 has no carrier", "disk full"},
			Services: []ServiceDigest{{Name: "web", Aspects: []uint64{1, 1 << 63}}, {Name: ""}},
		})
		frames["fitness-empty"] = AppendFitness(nil, version, 3, &Fitness{})
	}
	if version >= OrdersVersion {
		frames["orders"] = AppendOrders(nil, version, 3, []byte(`{"orders":[]}`))
	}
	return frames
}

// TestGolden pins the bytes of every version: a change here means a new Version.
func TestGolden(t *testing.T) {
	for version := uint8(MinVersion); version <= Version; version++ {
		t.Run(fmt.Sprint("version ", version), func(t *testing.T) { testGolden(t, version) })
	}
}

func testGolden(t *testing.T, version uint8) {
	for name, frame := range goldenFrames(version) {
		path := filepath.Join("testdata", "golden", fmt.Sprint(version), name+".hex")
		got := hex.Dump(frame)
		if os.Getenv("UPDATE_GOLDEN") != "" {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatalf("%v (UPDATE_GOLDEN=1 writes it)", err)
		}
		if got != string(want) {
			t.Errorf("%s:\n%s", name, cmp.Diff(string(want), got))
		}
		if err := reencode(frame); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// reencode decodes a valid frame and checks that encoding it again gives the same
// bytes. It returns decoding errors.
func reencode(frame []byte) error {
	h, payload, err := Decode(frame)
	if err != nil {
		return err
	}
	var again []byte
	switch h.Type {
	case TypeBatch:
		entries, err := decodeAll(payload)
		if err != nil {
			return err
		}
		again = append(Begin(nil), encodeAll(entries)...)
		Finish(again, 0, h)
	case TypeAck:
		ids, err := DecodeAck(nil, payload)
		if err != nil {
			return err
		}
		again = AppendAck(nil, h.Version, h.Epoch, h.Index, ids)
	case TypeHeartbeat:
		hb, err := DecodeHeartbeat(h.Version, payload)
		if err != nil {
			return err
		}
		again = AppendHeartbeat(nil, h.Version, h.Epoch, h.Index, hb)
	case TypeHeartbeatAck:
		if len(payload) != 0 {
			return ErrTrailing
		}
		again = AppendHeartbeatAck(nil, h.Version, h.Epoch, h.Index)
	case TypeFitness:
		if h.Index != 0 {
			return nil // not used
		}
		f, err := DecodeFitness(payload)
		if err != nil {
			return err
		}
		again = AppendFitness(nil, h.Version, h.Epoch, &f)
	case TypeOrders:
		if h.Index != 0 {
			return nil // not used
		}
		text, err := DecodeOrders(payload)
		if err != nil {
			return err
		}
		again = AppendOrders(nil, h.Version, h.Epoch, text)
	case TypeHello:
		m, err := DecodeHello(payload)
		if err != nil {
			return err
		}
		if m.MaxVersion > Version || h != (Header{Version: MinVersion, Type: TypeHello}) {
			return nil // a newer peer's may hold more than we know
		}
		if again, err = AppendHello(nil, &m); err != nil {
			return errors.New("decoded hello cannot be encoded: " + err.Error())
		}
	case TypeReject:
		m, err := DecodeReject(payload)
		if err != nil {
			return err
		}
		again = AppendReject(nil, m)
		if len(again) <= len(frame) {
			return nil // what a newer peer appended is ignored
		}
	case TypeVoterHello:
		m, err := DecodeVoterHello(payload)
		if err != nil {
			return err
		}
		if m.MaxVersion > VoterVersion || h != (Header{Version: MinVersion, Type: TypeVoterHello}) {
			return nil // a newer peer's may hold more than we know
		}
		if again, err = AppendVoterHello(nil, &m); err != nil {
			return errors.New("decoded hello cannot be encoded: " + err.Error())
		}
	case TypeVoterMessage:
		if h.Epoch != 0 || h.Index != 0 {
			return nil // not used
		}
		if again, err = AppendVoterMessage(nil, h.Version, payload); err != nil {
			return err
		}
	}
	if !bytes.Equal(frame, again) {
		return errors.New("encoding again gives other bytes")
	}
	return nil
}

// From version 5 on the bytes of a batch are the TLS record's to protect; its header stays covered, and
// so is the version, which says what the sum covers.
func TestBatchSum(t *testing.T) {
	for version := uint8(MinVersion); version <= Version; version++ {
		good := goldenFrames(version)["batch"]
		for _, at := range []int{4, 5, 15, 23, 27, 31} {
			f := bytes.Clone(good)
			f[at] ^= 1
			if _, _, err := Decode(f); err == nil {
				t.Errorf("version %d: byte %d of the header may be wrong", version, at)
			}
		}
		for at := HeaderLen; at < len(good); at++ {
			f := bytes.Clone(good)
			f[at] ^= 1
			if _, _, err := Decode(f); errors.Is(err, ErrChecksum) != (version < 5) {
				t.Errorf("version %d: byte %d of the payload is wrong: %v", version, at, err)
			}
		}
		other := bytes.Clone(good)
		for other[4] = MinVersion; other[4] <= Version; other[4]++ {
			if _, _, err := Decode(other); other[4] != version && !errors.Is(err, ErrChecksum) {
				t.Errorf("version %d for %d: %v", other[4], version, err)
			}
		}
	}
}

func TestRefused(t *testing.T) {
	good := AppendHeartbeat(nil, Version, 1, 2, Heartbeat{ClockMillis: 3})
	change := func(at int, to byte) []byte {
		f := bytes.Clone(good)
		f[at] = to
		return f
	}
	huge := bytes.Clone(good)
	copy(huge[24:], []byte{0x7f, 0xff, 0xff, 0xff})
	version := bytes.Clone(good)
	Finish(version, 0, Header{Version: Version + 1, Type: TypeHeartbeat, Epoch: 1, Index: 2})
	kind := bytes.Clone(good)
	Finish(kind, 0, Header{Version: Version, Type: 99, Epoch: 1, Index: 2})
	for _, tc := range []struct {
		name  string
		frame []byte
		want  error
	}{
		{"empty", nil, ErrShort},
		{"cut header", good[:31], ErrShort},
		{"cut payload", good[:len(good)-1], ErrLength},
		{"longer", append(bytes.Clone(good), 0), ErrLength},
		{"magic", change(0, 'X'), ErrMagic},
		{"reserved", change(7, 1), ErrReserved},
		{"epoch flipped", change(15, 9), ErrChecksum},
		{"payload flipped", change(HeaderLen, 9), ErrChecksum},
		{"too large", huge, ErrTooLarge},
		{"version", version, ErrVersion},
		{"type", kind, ErrType},
	} {
		if _, _, err := Decode(tc.frame); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
}

func TestEntriesRefused(t *testing.T) {
	rec := sampleRecord()
	open := AppendOpen(nil, &rec)
	for n := range len(open) {
		if n == 0 {
			continue
		}
		if _, err := decodeAll(open[:n]); err == nil {
			t.Errorf("open cut to %d bytes is accepted", n)
		}
	}
	adopt := AppendAdopt(nil, &rec, [2]uint64{1, 300}, [2]uint64{2, 301}, [2]bool{true, false})
	for n := 1; n < len(adopt); n++ {
		if _, err := decodeAll(adopt[:n]); err == nil {
			t.Errorf("adopt cut to %d bytes is accepted", n)
		}
	}
	for name, b := range map[string][]byte{
		"leg":        AppendLeg(nil, 300, &rec.Server, [2]uint64{1, 300}),
		"log":        AppendLog(nil, 300, [2]uint64{1, 300}),
		"released":   AppendReleased(nil, 300, &Released{End: 300, Sum: Digest{1}, State: []byte("state")}),
		"checkpoint": AppendCheckpoint(nil, 300, [2]uint64{1, 300}),
		"unlog":      AppendUnlog(nil, 300),
	} {
		for n := 1; n < len(b); n++ {
			if _, err := decodeAll(b[:n]); err == nil {
				t.Errorf("%s cut to %d bytes is accepted", name, n)
			}
		}
	}
	state := AppendReleased(nil, 1, &Released{State: make([]byte, MaxState)})
	state[len(state)-MaxState-1]++
	data := AppendData(nil, 1, Response, 2, []byte("xyz"), false)
	for n := 1; n < len(data); n++ {
		if _, err := decodeAll(data[:n]); err == nil {
			t.Errorf("data cut to %d bytes is accepted", n)
		}
	}
	for _, tc := range []struct {
		name string
		b    []byte
		want error
	}{
		{"kind", []byte{0}, ErrEntry},
		{"data flags", []byte{byte(EntryData), 4, 1, 0, 0}, ErrFlags},
		{"delivered flags", []byte{byte(EntryDelivered), 4, 1, 0, 0}, ErrFlags},
		{"adopt flags", []byte{byte(EntryAdopt), 4}, ErrFlags},
		{"terminate flags", []byte{byte(EntryTerminate), 4}, ErrFlags},
		{"terminate short", []byte{byte(EntryTerminate), 0, 1}, ErrShort},
		{"life short", []byte{byte(EntryLife), 1, 3, 'a'}, ErrShort},
		{"life name", append([]byte{byte(EntryLife), 1, MaxLifeName + 1}, make([]byte, MaxLifeName+1)...), ErrName},
		{"decided short", []byte{byte(EntryDecided), 1, 0, 1, 'k', 2, 'v'}, ErrShort},
		{"key", AppendDecided(nil, &Decided{Key: make([]byte, MaxKey+1)}), ErrDecided},
		{"value", AppendDecided(nil, &Decided{Value: make([]byte, MaxValue+1)}), ErrDecided},
		{"released flags", []byte{byte(EntryReleased), 2, 1}, ErrFlags},
		{"long state", append(state, 0), ErrState},
		{"scale of a leg", AppendLeg(nil, 1, &LegRecord{PeerWS: 15}, [2]uint64{}), ErrWindowScale},
		{"close kind", []byte{byte(EntryClose), 9, 1}, ErrFlags},
		{"long varint", []byte{byte(EntryClose), byte(Aborted), 0x80, 0}, ErrVarint},
		{"endless varint", append([]byte{byte(EntryClose), byte(Aborted)}, bytes.Repeat([]byte{0xff}, 12)...), ErrVarint},
		{"claimed length", []byte{byte(EntryData), 0, 1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f, 'x'}, ErrShort},
	} {
		if _, err := decodeAll(tc.b); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
	if _, err := DecodeAck(nil, []byte{0xff, 0xff, 0x03, 1}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("ack that claims more than it has: %v", err)
	}
}

func TestValidate(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*Record)
		want   error
	}{
		{"good", func(*Record) {}, nil},
		{"spliced and logged", func(r *Record) { r.Spliced, r.Logged = true, true }, ErrSpliced},
		{"spliced, another leg", func(r *Record) { r.Spliced, r.Start = true, [2]uint64{0, 1} }, ErrSpliced},
		{"service", func(r *Record) { r.Service = string(make([]byte, MaxService+1)) }, ErrService},
		{"zone", func(r *Record) { r.Client.Remote = netip.MustParseAddrPort("[fe80::1%eth0]:1") }, ErrZone},
		{"scale", func(r *Record) { r.Server.OurWS = 15 }, ErrWindowScale},
		{"negative scale", func(r *Record) { r.Client.PeerWS = -2 }, ErrWindowScale},
	} {
		r := sampleRecord()
		tc.change(&r)
		if err := r.Validate(); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
}

func TestCommonVersion(t *testing.T) {
	for _, tc := range []struct {
		a, b [2]uint8
		want uint8
		ok   bool
	}{
		{[2]uint8{1, 1}, [2]uint8{1, 1}, 1, true},
		{[2]uint8{1, 2}, [2]uint8{2, 3}, 2, true},
		{[2]uint8{1, 1}, [2]uint8{2, 3}, 1, false},
	} {
		a := Hello{MinVersion: tc.a[0], MaxVersion: tc.a[1]}
		b := Hello{MinVersion: tc.b[0], MaxVersion: tc.b[1]}
		for _, pair := range [2][2]*Hello{{&a, &b}, {&b, &a}} {
			if v, ok := pair[0].Common(pair[1]); ok != tc.ok || v != tc.want {
				t.Errorf("%v and %v: %d, %v", tc.a, tc.b, v, ok)
			}
		}
	}
}

// TestHelloFromTheFuture: what a newer version appends does not hinder an older one.
func TestHelloFromTheFuture(t *testing.T) {
	h := Hello{MinVersion: 1, MaxVersion: Version + 1, Pair: "edge", Node: "b", Role: RoleActive}
	f, err := AppendHello(nil, &h)
	if err != nil {
		t.Fatal(err)
	}
	f = append(f, "more"...)
	Finish(f, 0, Header{Version: Version + 1, Type: TypeHello})
	_, payload, err := Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeHello(payload)
	if err != nil || got != h {
		t.Errorf("%+v, %v", got, err)
	}
}
