package kmod

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ulikunitz/xz"
)

// object makes an ELF file with nothing but a .modinfo section.
func object(info ...string) []byte {
	data := []byte(strings.Join(info, "\x00") + "\x00")
	names := []byte("\x00.modinfo\x00.shstrtab\x00")
	const header, section = 64, 64
	var b bytes.Buffer
	w := func(v any) { _ = binary.Write(&b, binary.LittleEndian, v) }
	b.WriteString("\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9))
	w([]uint16{1, 62}) // relocatable, x86-64
	w(uint32(1))
	w([]uint64{0, 0, uint64(header + len(data) + len(names))}) // entry, programs, sections
	w(uint32(0))
	w([]uint16{header, 0, 0, section, 3, 2})
	b.Write(data)
	b.Write(names)
	head := func(name, kind uint32, at, size int) {
		w([]uint32{name, kind})
		w([]uint64{0, 0, uint64(at), uint64(size)})
		w([]uint32{0, 0})
		w([]uint64{1, 0})
	}
	head(0, 0, 0, 0)
	head(1, 1, header, len(data))
	head(10, 3, header+len(data), len(names))
	return b.Bytes()
}

func compress(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := xz.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func kernel(t *testing.T) map[string][]byte {
	return map[string][]byte{
		"lib/modules/6/kernel/drivers/net/virtio_net.ko.xz":         compress(t, object("alias=virtio:d00000001v*", "depends=net_failover,virtio_ring")),
		"lib/modules/6/kernel/net/net_failover.ko.xz":               compress(t, object("depends=failover")),
		"lib/modules/6/kernel/net/core/failover.ko":                 object("depends="),
		"lib/modules/6/kernel/drivers/watchdog/i6300esb.ko":         object("alias=pci:v00008086d000025ABsv*sd*bc*sc*i*", "depends=watchdog"),
		"lib/modules/6/kernel/drivers/watchdog/watchdog.ko":         object("name=watchdog"),
		"lib/modules/6/kernel/drivers/char/hw_random/virtio-rng.ko": object("alias=virtio:d00000004v*"),
		"lib/modules/6/kernel/x/circle-a.ko":                        object("depends=circle_b"),
		"lib/modules/6/kernel/x/circle-b.ko":                        object("depends=circle_a"),
		"lib/modules/6/kernel/x/lonely.ko":                          object("depends=nobody"),
		"lib/modules/6/kernel/x/broken.ko":                          []byte("not ELF"),
	}
}

const builtin = "kernel/drivers/virtio/virtio_ring.ko\nkernel/drivers/net/tun.ko\n"

func names(s Set) (out []string) {
	for _, m := range s {
		out = append(out, m.Name)
	}
	return out
}

func TestSelectOrdersByNeed(t *testing.T) {
	set, err := Select(kernel(t), builtin, []string{"virtio_net", "tun", "i6300esb", "virtio-rng", "watchdog"})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"failover", "net_failover", "virtio_net", "watchdog", "i6300esb", "virtio_rng"}
	if diff := cmp.Diff(names(set), want); diff != "" {
		t.Error(diff)
	}
	for _, m := range set {
		if !bytes.HasPrefix(m.Object, []byte("\x7fELF")) {
			t.Errorf("%s is not uncompressed", m.Name)
		}
	}
}

func TestSelectRefuses(t *testing.T) {
	for name, part := range map[string]string{
		"circle_a": "needs itself", "lonely": "no module nobody", "broken": "module broken", "nothing": "no module nothing",
	} {
		if _, err := Select(kernel(t), builtin, []string{name}); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %v, want %q", name, err, part)
		}
	}
	files := map[string][]byte{"x/m.ko.xz": []byte("no xz")}
	if _, err := Select(files, "", []string{"m"}); err == nil || !strings.Contains(err.Error(), "uncompress") {
		t.Errorf("a damaged file: %v", err)
	}
}

func TestPlan(t *testing.T) {
	set, err := Select(kernel(t), builtin, []string{"virtio_net", "i6300esb", "virtio-rng"})
	if err != nil {
		t.Fatal(err)
	}
	data, err := set.Index([]string{"virtio_rng"})
	if err != nil {
		t.Fatal(err)
	}
	index, err := ReadIndex(bytes.NewReader(data))
	if err != nil || len(index) != len(set) {
		t.Fatalf("%d entries, %v:\n%s", len(index), err, data)
	}
	const nic, dog = "virtio:d00000001v00001AF4", "pci:v00008086d000025ABsv00001AF4sd00001100bc08sc80i00"
	for _, c := range []struct {
		name    string
		devices []string
		loaded  map[string]bool
		want    []string
	}{
		{"no devices", nil, nil, []string{"virtio_rng"}},
		{"a NIC", []string{nic, "acpi:PNP0A08:"}, nil, []string{"failover", "net_failover", "virtio_net", "virtio_rng"}},
		{"one more", []string{nic, dog}, map[string]bool{"failover": true, "net_failover": true, "virtio_net": true, "virtio_rng": true}, []string{"watchdog", "i6300esb"}},
		{"all there", []string{dog}, map[string]bool{"watchdog": true, "i6300esb": true, "virtio_rng": true}, nil},
	} {
		if diff := cmp.Diff(Plan(index, c.devices, c.loaded), c.want); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

func TestReadIndexRefuses(t *testing.T) {
	for _, text := range []string{"a\n", "a sometimes -\n", "a always\n"} {
		if _, err := ReadIndex(strings.NewReader(text)); err == nil {
			t.Errorf("%q was taken for an index", text)
		}
	}
	if _, err := (Set{{Name: "a", Aliases: []string{"x y"}}}).Index(nil); err == nil {
		t.Error("an alias with a space was written")
	}
}
