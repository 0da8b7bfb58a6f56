package tun

import (
	"encoding/binary"
	"fmt"
)

// VnetHeaderLen is the length of the virtio-net header before every packet:
// the legacy layout without num_buffers, the kernel's default for TUN devices
// (TUNGETVNETHDRSZ is 10 unless somebody changes it).
const VnetHeaderLen = 10

// MaxPacketLen is the largest IP packet a device hands out or takes: what an
// IPv4 total length, or an IPv6 payload length plus its header, can express.
// A reader that offers less than this after the header risks truncation.
const MaxPacketLen = 65535 + 40

// Bits of VnetHeader.Flags (virtio 1.2, section 5.1.6).
const (
	// FlagNeedsCsum: the transport checksum holds only the pseudo header's
	// sum; whoever puts the packet on a wire completes it from CsumStart on,
	// storing it CsumOffset bytes further. On a received packet it also means
	// that the packet never left this host since the checksum was due, so it
	// may be taken as correct.
	FlagNeedsCsum = 1
	// FlagDataValid: the checksum was verified on the way in.
	FlagDataValid = 2
)

// Values of VnetHeader.GSOType.
const (
	GSONone  = 0
	GSOTCPv4 = 1
	GSOUDP   = 3 // UDP fragmentation (UFO); no current kernel sends it to us
	GSOTCPv6 = 4
	GSOUDPL4 = 5 // UDP segmentation (USO), since Linux 6.2
	// GSOECN is a bit or-ed to a TCP type: the first segment carries CWR.
	GSOECN = 0x80
)

// VnetHeader tells what a superpacket is made of and who completes its
// checksum. The zero value is a plain packet with a complete checksum.
type VnetHeader struct {
	Flags   uint8
	GSOType uint8
	// HdrLen is the length of IP and transport headers in bytes. On received
	// packets it is a hint only: on the forwarding path the kernel may put the
	// whole linear part of the packet here. Parse the headers instead.
	HdrLen uint16
	// GSOSize is the payload length of each segment in bytes, but the last.
	GSOSize uint16
	// CsumStart and CsumOffset count bytes from the start of the IP header,
	// and from CsumStart, respectively; valid with FlagNeedsCsum.
	CsumStart  uint16
	CsumOffset uint16
}

// Encode writes the header into b[:VnetHeaderLen]; a shorter b is a
// programming error and panics as any slice access does.
//
// The byte order is the host's: a TUN device is a legacy virtio header unless
// TUNSETVNETLE/BE was called.
func (h *VnetHeader) Encode(b []byte) {
	_ = b[VnetHeaderLen-1]
	b[0] = h.Flags
	b[1] = h.GSOType
	binary.NativeEndian.PutUint16(b[2:], h.HdrLen)
	binary.NativeEndian.PutUint16(b[4:], h.GSOSize)
	binary.NativeEndian.PutUint16(b[6:], h.CsumStart)
	binary.NativeEndian.PutUint16(b[8:], h.CsumOffset)
}

// Decode reads the header from b[:VnetHeaderLen].
func (h *VnetHeader) Decode(b []byte) error {
	if len(b) < VnetHeaderLen {
		return fmt.Errorf("decode virtio-net header: %d bytes, want %d", len(b), VnetHeaderLen)
	}
	h.Flags = b[0]
	h.GSOType = b[1]
	h.HdrLen = binary.NativeEndian.Uint16(b[2:])
	h.GSOSize = binary.NativeEndian.Uint16(b[4:])
	h.CsumStart = binary.NativeEndian.Uint16(b[6:])
	h.CsumOffset = binary.NativeEndian.Uint16(b[8:])
	return nil
}
