package tun_test

import (
	"encoding/binary"
	"fmt"

	"lockstep/tun"
	"lockstep/tun/tuntest"
)

// What crosses a device is a packet with a header before it, which says how many segments a superpacket is,
// and who completes its checksum. Open gives a device of the kernel; this one is made of memory.
func ExampleDevice() {
	near, far := tuntest.Pipe()
	defer near.Close()
	defer far.Close()

	const ip, tcp, mss, payload = 20, 20, 1460, 4000
	packet := make([]byte, ip+tcp+payload)
	packet[0] = 0x45 // IPv4, five words of header
	binary.BigEndian.PutUint16(packet[2:], uint16(len(packet)))
	header := make([]byte, tun.VnetHeaderLen)
	(&tun.VnetHeader{
		Flags: tun.FlagNeedsCsum, CsumStart: ip, CsumOffset: 16,
		GSOType: tun.GSOTCPv4, HdrLen: ip + tcp, GSOSize: mss,
	}).Encode(header)
	if err := near.WriteV([][]byte{header, packet}); err != nil {
		panic(err)
	}

	got := make([]byte, tun.MaxPacketLen)
	n, err := far.ReadV([][]byte{header, got})
	if err != nil {
		panic(err)
	}
	var h tun.VnetHeader
	if err := h.Decode(header); err != nil {
		panic(err)
	}
	fmt.Println(n, "bytes in", (n-int(h.HdrLen)+int(h.GSOSize)-1)/int(h.GSOSize), "segments")
	fmt.Println("checksums are the receiver's business:", h.Flags&tun.FlagNeedsCsum != 0)
	// Output:
	// 4040 bytes in 3 segments
	// checksums are the receiver's business: true
}
