package tun

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestVnetHeaderBytes(t *testing.T) {
	h := VnetHeader{Flags: FlagNeedsCsum, GSOType: GSOTCPv6, HdrLen: 72, GSOSize: 1428, CsumStart: 40, CsumOffset: 16}
	b := make([]byte, VnetHeaderLen)
	h.Encode(b)
	want := []byte{1, 4}
	for _, v := range []uint16{72, 1428, 40, 16} {
		want = binary.NativeEndian.AppendUint16(want, v)
	}
	if !bytes.Equal(b, want) {
		t.Fatalf("encoded % x, want % x", b, want)
	}
	var got VnetHeader
	if err := got.Decode(b); err != nil || got != h {
		t.Fatalf("decoded %+v, %v", got, err)
	}
	if err := got.Decode(b[:9]); err == nil {
		t.Fatal("a short header was decoded")
	}
}

// openTUN makes a device in n with addresses on it, up.
func openTUN(t testing.TB, n *testNS, name string, mtu int, addrs ...string) Device {
	t.Helper()
	d := in(n, func() (Device, error) { return Open(name, mtu) })
	t.Cleanup(func() { d.Close() })
	n.run(func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		// The kernel shall talk only when a test makes it.
		if err := netlink.LinkSetIP6AddrGenMode(l, 1); err != nil {
			return err
		}
		if err := n.up(name); err != nil {
			return err
		}
		return n.addr(name, addrs...)
	})
	return d
}

// pump carries packets from one device to the other until a closes. largest
// is the longest packet seen, in bytes.
func pump(from, to Device, largest *atomic.Int64) error {
	hdr, buf := make([]byte, VnetHeaderLen), make([]byte, MaxPacketLen)
	out := make([][]byte, 3)
	for {
		n, err := from.ReadV([][]byte{hdr, buf[:64], buf[64:]}) // split, to exercise the scatter
		if errors.Is(err, os.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		if int64(n) > largest.Load() {
			largest.Store(int64(n))
		}
		out[0], out[1], out[2] = hdr, buf[:min(n, 40)], buf[min(n, 40):n]
		if err := to.WriteV(out); err != nil && !errors.Is(err, os.ErrClosed) {
			return err
		}
	}
}

// cable connects two kernels by two TUN devices and returns what to wait for.
func cable(t testing.TB, a, b Device) (largest *atomic.Int64) {
	largest = new(atomic.Int64)
	var wg sync.WaitGroup
	for _, p := range [][2]Device{{a, b}, {b, a}} {
		wg.Go(func() {
			if err := pump(p[0], p[1], largest); err != nil {
				t.Errorf("pump: %v", err)
			}
		})
	}
	t.Cleanup(func() {
		a.Close()
		b.Close()
		wg.Wait()
	})
	return largest
}

func TestSuperpacketsBetweenKernels(t *testing.T) {
	left, right := newNS(t), newNS(t)
	da := openTUN(t, left, "ls0", 1500, "10.9.0.1/24", "fd09::1/64")
	db := openTUN(t, right, "ls0", 1500, "10.9.0.2/24", "fd09::2/64")
	largest := cable(t, da, db)
	for _, addr := range []string{"10.9.0.2:7000", "[fd09::2]:7000"} {
		t.Run(addr, func(t *testing.T) {
			largest.Store(0)
			ln := in(right, func() (net.Listener, error) { return net.Listen("tcp", addr) })
			defer ln.Close()
			data := make([]byte, 8<<20)
			for i := range data {
				data[i] = byte(i*7 + i>>11)
			}
			sum := make(chan [32]byte, 1)
			go func() {
				h := sha256.New()
				if c, err := ln.Accept(); err == nil {
					io.Copy(h, c)
					c.Close()
				}
				sum <- [32]byte(h.Sum(nil))
			}()
			c := in(left, func() (net.Conn, error) { return net.Dial("tcp", addr) })
			if _, err := c.Write(data); err != nil {
				t.Fatal(err)
			}
			c.Close()
			if <-sum != sha256.Sum256(data) {
				t.Fatal("the bytes that arrived differ")
			}
			if n := largest.Load(); n <= 1500 {
				t.Fatalf("largest packet %d bytes: no superpackets", n)
			}
			t.Logf("largest packet %d bytes", largest.Load())
		})
	}
}

func BenchmarkCable(b *testing.B) {
	left, right := newNS(b), newNS(b)
	da := openTUN(b, left, "ls0", 1500, "10.9.0.1/24")
	db := openTUN(b, right, "ls0", 1500, "10.9.0.2/24")
	cable(b, da, db)
	ln := in(right, func() (net.Listener, error) { return net.Listen("tcp", "10.9.0.2:7000") })
	defer ln.Close()
	done := make(chan int64, 1)
	go func() {
		var n int64
		if c, err := ln.Accept(); err == nil {
			n, _ = io.Copy(io.Discard, c)
			c.Close()
		}
		done <- n
	}()
	c := in(left, func() (net.Conn, error) { return net.Dial("tcp", "10.9.0.2:7000") })
	chunk := make([]byte, 1<<20)
	b.SetBytes(int64(len(chunk)))
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if _, err := c.Write(chunk); err != nil {
			b.Fatal(err)
		}
	}
	c.Close()
	if n := <-done; n != int64(b.N)*int64(len(chunk)) {
		b.Fatalf("%d bytes arrived", n)
	}
}

func TestCloseUnblocksReader(t *testing.T) {
	n := newNS(t)
	ignore := goleak.IgnoreCurrent()
	d := openTUN(t, n, "ls0", 1500)
	got := make(chan error, 1)
	started := make(chan struct{})
	go func() {
		close(started)
		for {
			_, err := d.ReadV([][]byte{make([]byte, VnetHeaderLen), make([]byte, MaxPacketLen)})
			if err != nil {
				got <- err
				return
			}
		}
	}()
	<-started
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; !errors.Is(err, os.ErrClosed) {
		t.Fatalf("reader got %v, want os.ErrClosed", err)
	}
	if err := d.WriteV([][]byte{make([]byte, VnetHeaderLen), {0x45}}); !errors.Is(err, os.ErrClosed) {
		t.Fatalf("writer got %v, want os.ErrClosed", err)
	}
	if err := d.Close(); err != nil {
		t.Fatalf("second Close: %v", err)
	}
	goleak.VerifyNone(t, ignore)
}

func TestDeletedInterface(t *testing.T) {
	n := newNS(t)
	d := openTUN(t, n, "ls0", 1500)
	got := make(chan error, 1)
	go func() {
		for {
			if _, err := d.ReadV([][]byte{make([]byte, VnetHeaderLen), make([]byte, MaxPacketLen)}); err != nil {
				got <- err
				return
			}
		}
	}()
	n.run(func() error {
		l, err := netlink.LinkByName("ls0")
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	})
	if err := <-got; !errors.Is(err, os.ErrClosed) || !strings.Contains(err.Error(), "deleted") {
		t.Fatalf("reader got %v", err)
	}
}

func TestWriteErrorsAreNotFatal(t *testing.T) {
	n := newNS(t)
	d := openTUN(t, n, "ls0", 1500, "10.9.0.1/24")
	hdr := make([]byte, VnetHeaderLen)
	pkt := udpPacket("10.9.0.7", "10.9.0.1", 5000, 5001, []byte("hello"))
	setLink := func(up bool) {
		n.run(func() error {
			l, err := netlink.LinkByName("ls0")
			if err != nil {
				return err
			}
			if up {
				return netlink.LinkSetUp(l)
			}
			return netlink.LinkSetDown(l)
		})
	}
	setLink(false)
	if err := d.WriteV([][]byte{hdr, pkt}); !errors.Is(err, unix.EIO) {
		t.Fatalf("write with the link down: %v, want EIO", err)
	}
	setLink(true)
	lying := VnetHeader{Flags: FlagNeedsCsum, CsumStart: 60000, CsumOffset: 16}
	bad := make([]byte, VnetHeaderLen)
	lying.Encode(bad)
	if err := d.WriteV([][]byte{bad, pkt}); !errors.Is(err, unix.EINVAL) {
		t.Fatalf("write with a lying header: %v, want EINVAL", err)
	}
	if err := d.WriteV([][]byte{hdr[:4], pkt}); err == nil {
		t.Fatal("a short header buffer was accepted")
	}
	if err := d.WriteV(make([][]byte, maxIovecs+1)); err == nil {
		t.Fatal("too many buffers were accepted")
	}
	many := make([][]byte, 1, 200)
	many[0] = hdr
	for i := range pkt {
		many = append(many, pkt[i:i+1])
	}
	c := in(n, func() (net.PacketConn, error) { return net.ListenPacket("udp", "10.9.0.1:5001") })
	defer c.Close()
	if err := d.WriteV(many); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	k, from, err := c.ReadFrom(buf)
	if err != nil || string(buf[:k]) != "hello" || from.String() != "10.9.0.7:5000" {
		t.Fatalf("received %q from %v, %v", buf[:k], from, err)
	}
}

func TestConcurrentWriters(t *testing.T) {
	n := newNS(t)
	d := openTUN(t, n, "ls0", 1500, "10.9.0.1/24")
	c := in(n, func() (net.PacketConn, error) { return net.ListenPacket("udp", "10.9.0.1:5001") })
	defer c.Close()
	const writers, each = 4, 20 // fits into the socket's default buffer
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			hdr := make([]byte, VnetHeaderLen)
			for i := range each {
				pkt := udpPacket("10.9.0.7", "10.9.0.1", 5000, 5001, fmt.Appendf(nil, "%d/%d", w, i))
				if err := d.WriteV([][]byte{hdr, pkt}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	seen := make(map[string]bool)
	buf := make([]byte, 100)
	for range writers * each {
		k, _, err := c.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		seen[string(buf[:k])] = true
	}
	if len(seen) != writers*each {
		t.Fatalf("%d different packets arrived", len(seen))
	}
}

func TestOpenHints(t *testing.T) {
	n := newNS(t)
	openTUN(t, n, "ls0", 1500)
	n.run(func() error {
		_, err := Open("ls0", 1500)
		if !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("second Open: %v, want EBUSY", err)
		}
		return nil
	})
}

// ipv4Packet is a header of 20 bytes, its checksum right, and payload.
func ipv4Packet(src, dst string, proto byte, payload []byte) []byte {
	s, d := netip.MustParseAddr(src).As4(), netip.MustParseAddr(dst).As4()
	b := []byte{0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, proto, 0, 0}
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
	b = append(append(b, s[:]...), d[:]...)
	binary.BigEndian.PutUint16(b[10:], inetChecksum(b))
	return append(b, payload...)
}

// udpPacket leaves the UDP checksum out, as RFC 768 permits.
func udpPacket(src, dst string, sport, dport uint16, payload []byte) []byte {
	u := binary.BigEndian.AppendUint16(nil, sport)
	u = binary.BigEndian.AppendUint16(u, dport)
	u = binary.BigEndian.AppendUint16(u, uint16(8+len(payload)))
	u = append(u, 0, 0)
	return ipv4Packet(src, dst, unix.IPPROTO_UDP, append(u, payload...))
}

func inetChecksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
