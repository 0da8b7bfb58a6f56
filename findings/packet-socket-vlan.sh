#!/usr/bin/env bash
# Of which networks does a packet socket that is bound to a NIC see frames?
# Version: github.com/mdlayher/packet v1.2.0 (no matter: the kernel does it); Linux 6.18, as all since 3.0 (packet(7), PACKET_AUXDATA).
# Guess: of the NIC's own, untagged; a frame of a VLAN begins with another EtherType (0x8100), so a socket for ARP does not get it.
# Seen: the tag is taken off before EtherTypes are compared, and the frame looks like one of the untagged network: an ARP reply in
#       VLAN 5, by a host that has there the address that we have here, is to be told from a neighbour's claim only by its
#       type (PACKET_OTHERHOST, since nobody has configured that VLAN), which packet.Conn does not hand out, or by a filter.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root (a network namespace of its own)"; exit 2; }
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
cat >main.go <<'GO'
package main

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

const arp = 0x0806

// listen opens a socket for ARP.
func listen(ifi *net.Interface, filter ...bpf.Instruction) *packet.Conn {
	cfg := &packet.Config{}
	if filter != nil {
		raw, err := bpf.Assemble(filter)
		check(err)
		cfg.Filter = raw
	}
	c, err := packet.Listen(ifi, packet.Raw, arp, cfg)
	check(err)
	return c
}

func main() {
	runtime.LockOSThread() // the namespace is this thread's; the script has made it
	near, err := net.InterfaceByName("near")
	check(err)
	far, err := net.InterfaceByName("far")
	check(err)
	plain := listen(near)
	// Without those for other hosts.
	ours := listen(near, bpf.LoadExtension{Num: bpf.ExtType}, bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OTHERHOST, SkipTrue: 1},
		bpf.RetConstant{Val: 2048}, bpf.RetConstant{Val: 0})
	frame := slices.Concat(net.HardwareAddr{255, 255, 255, 255, 255, 255}, far.HardwareAddr, []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 2},
		far.HardwareAddr, []byte{10, 0, 0, 9}, make([]byte, 6), []byte{10, 0, 0, 9})
	tagged := slices.Concat(frame[:12], []byte{0x81, 0, 0, 5}, frame[12:])
	from := listen(far)
	for _, f := range [][]byte{frame, tagged} {
		_, err := from.WriteTo(f, &packet.Addr{HardwareAddr: net.HardwareAddr(f[:6])})
		check(err)
	}
	for _, c := range []struct {
		name string
		conn *packet.Conn
	}{{"socket", plain}, {"with a filter", ours}} {
		n, same, buf := 0, 0, make([]byte, 2000)
		for {
			check(c.conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond)))
			k, _, err := c.conn.ReadFrom(buf)
			if os.IsTimeout(err) {
				break
			}
			check(err)
			if n++; slices.Equal(buf[:k], frame) {
				same++
			}
		}
		fmt.Printf("%s: %d frames, %d of them the untagged one byte by byte\n", c.name, n, same)
	}
}
GO
go mod init finding >/dev/null 2>&1
go get github.com/mdlayher/packet@v1.2.0 golang.org/x/net@v0.62.0 golang.org/x/sys@v0.49.0 >/dev/null 2>&1 || { echo "could not be installed: is the version still to be had?"; exit 2; }
go build -o finding .
got=$(unshare -n bash -c 'ip link add near type veth peer name far && ip link set near up && ip link set far up && ./finding')
want="socket: 2 frames, 2 of them the untagged one byte by byte
with a filter: 1 frames, 1 of them the untagged one byte by byte"
echo "$got"
[ "$got" = "$want" ] || { echo "CHANGED: expected"; echo "$want"; exit 1; }
