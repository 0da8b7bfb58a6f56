package lockstep_test

import (
	"go/constant"
	"go/types"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"lockstep/replication/transport"
	"lockstep/replication/wire"
)

// numbered are the constants of a type, by what they are called behind its prefix.
func numbered(t *testing.T, c *constants, dir, typ, prefix string) map[string]string {
	t.Helper()
	p, err := c.load(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, name := range p.Scope().Names() {
		k, ok := p.Scope().Lookup(name).(*types.Const)
		if !ok {
			continue
		}
		if named, ok := k.Type().(*types.Named); ok && named.Obj().Name() == typ {
			all[strings.TrimPrefix(name, prefix)] = k.Val().ExactString()
		}
	}
	if len(all) == 0 {
		t.Fatalf("%s has no constants of type %s", dir, typ)
	}
	return all
}

// docs/protocol.md has every frame, entry, version and refusal of package wire, with its number,
// and every field of what the frames carry.
func TestProtocolIsDocumented(t *testing.T) {
	page := read(t, "docs/protocol.md")
	c := newConstants()
	compare := func(after string, want map[string]string) {
		t.Helper()
		got := map[string]string{}
		for _, row := range table(t, page, after) {
			got[row[1]] = row[0]
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: documented are %v, the code has %v", after, got, want)
		}
	}
	compare("## Types of frames", numbered(t, c, "replication/wire", "Type", "Type"))
	compare("## Entries of a batch", numbered(t, c, "replication/wire", "EntryKind", "Entry"))

	fields := func(text string, names ...string) {
		t.Helper()
		var got []string
		for _, m := range code.FindAllStringSubmatch(text, -1) {
			got = append(got, m[1])
		}
		slices.Sort(got)
		slices.Sort(names)
		if !slices.Equal(slices.Compact(got), slices.Compact(names)) {
			t.Errorf("documented are the fields %v, the code has %v", got, names)
		}
	}
	of := func(values ...any) (names []string) {
		for _, v := range values {
			for i := range reflect.TypeOf(v).NumField() {
				names = append(names, reflect.TypeOf(v).Field(i).Name)
			}
		}
		return names
	}
	for _, row := range table(t, page, "## Types of frames") {
		switch row[1] {
		case "Hello":
			fields(row[3], of(wire.Hello{})...)
		case "Reject":
			fields(row[3], of(wire.Reject{})...)
		case "Heartbeat":
			fields(row[3], of(wire.Heartbeat{})...)
		case "Fitness":
			fields(row[3], of(wire.Fitness{}, wire.ServiceDigest{})...)
		case "VoterHello":
			fields(row[3], of(wire.VoterHello{})...)
		}
		if since, _ := strconv.Atoi(row[2]); since < wire.MinVersion || since > wire.Version {
			t.Errorf("%s: no version %s", row[1], row[2])
		}
	}
	_, leg, _ := strings.Cut(page, "A *leg* is ")
	leg, _, _ = strings.Cut(leg, " behind the addresses")
	fields(leg, of(wire.LegRecord{})...)

	versions := table(t, page, "## Versions")
	if len(versions) != wire.Version || !strings.Contains(page, "Versions "+strconv.Itoa(wire.MinVersion)+" to "+strconv.Itoa(wire.Version)+" are spoken") {
		t.Errorf("versions %d to %d are spoken, documented are %d", wire.MinVersion, wire.Version, len(versions))
	}
	documented := map[string]string{}
	for _, row := range table(t, page, "## Refusals") {
		documented[row[0]] = strings.Trim(row[1], "`")
	}
	reason := map[string]transport.Reason{
		"Other": "", "Pair": transport.RefusedWrongPair, "Node": transport.RefusedWrongNode, "Version": transport.RefusedVersion,
		"Busy": transport.RefusedDuplicate, "Key": transport.RefusedWrongKey, "Timeouts": transport.RefusedTimeouts,
	}
	codes := numbered(t, c, "replication/wire", "RejectCode", "Reject")
	for name, number := range codes {
		if why, ok := reason[name]; !ok || documented[number] != string(why) {
			t.Errorf("refusal %s, %s, is documented as %q", number, name, documented[number])
		}
	}
	if len(documented) != len(codes) {
		t.Errorf("%d refusals are documented, there are %d", len(documented), len(codes))
	}
	p, err := c.load("replication/transport")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range p.Scope().Names() {
		if k, ok := p.Scope().Lookup(name).(*types.Const); ok && strings.HasPrefix(name, "Refused") {
			if why := constant.StringVal(k.Val()); !strings.Contains(page, "`"+why+"`") {
				t.Errorf("the reason %s of a refusal is not documented", why)
			}
		}
	}
}

// What a field takes is documented as the encoder writes it: the frames whose size does not
// depend on a count.
func TestProtocolSizes(t *testing.T) {
	page := read(t, "docs/protocol.md")
	rows := map[string]string{}
	for _, row := range table(t, page, "## Types of frames") {
		rows[row[1]] = row[3]
	}
	bytesIn := regexp.MustCompile(`\((\d+)[^)]*\)`)
	sum := func(text string) (n int) {
		for _, m := range bytesIn.FindAllStringSubmatch(text, -1) {
			v, _ := strconv.Atoi(m[1])
			n += v
		}
		return n
	}
	hello, err := wire.AppendHello(nil, &wire.Hello{MinVersion: 1, MaxVersion: 1})
	if err != nil {
		t.Fatal(err)
	}
	voter, err := wire.AppendVoterHello(nil, &wire.VoterHello{MinVersion: 1, MaxVersion: 1})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []struct {
		name  string
		frame []byte
		more  int // bytes that the row does not count by name: a field of several, empty strings
	}{
		// (1 byte each) of three fields is one match: two more; flags; two empty strings.
		{"Hello", hello, 2 + 1 + 2},
		{"Reject", wire.AppendReject(nil, wire.Reject{}), 1},
		{"Heartbeat", wire.AppendHeartbeat(nil, wire.Version, 1, 1, wire.Heartbeat{}), 4}, // (4 each) of two fields is one match
		{"HeartbeatAck", wire.AppendHeartbeatAck(nil, wire.Version, 1, 1), 0},
		{"VoterHello", voter, 1 + 2},
	} {
		if got, want := len(f.frame)-wire.HeaderLen, sum(rows[f.name])+f.more; got != want {
			t.Errorf("%s: its payload has %d bytes, its row says %d", f.name, got, want)
		}
	}
}
