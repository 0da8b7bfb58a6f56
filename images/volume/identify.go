package volume

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Labels of the file systems that an appliance looks for. FAT knows only capitals; labels are
// compared without regard to case.
const (
	ConfigLabel = "cidata"   // NoCloud's: a volume with configuration
	BootLabel   = "LOCKSTEP" // the image's own EFI system partition
	StateLabel  = "lockstep-state"
)

// Kind of a file system, as mount(2) names it.
type Kind string

// Kinds that Identify knows.
const (
	KindISO  Kind = "iso9660"
	KindFAT  Kind = "vfat"
	KindExt4 Kind = "ext4"
)

// errUnknown says that a device holds no file system of a known kind.
var errUnknown = errors.New("no file system that is known here")

// Identify tells the kind of file system on a device and its label. A device that is too small for
// one holds none.
func Identify(r io.ReaderAt) (Kind, string, error) {
	for _, look := range []func(io.ReaderAt) (Kind, string, error){identifyISO, identifyExt4, identifyFAT} {
		kind, label, err := look(r)
		if !errors.Is(err, errUnknown) {
			return kind, label, err
		}
	}
	return "", "", errUnknown
}

// block reads n bytes; what lies beyond the device's end is no file system.
func block(r io.ReaderAt, at int64, n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := r.ReadAt(b, at); errors.Is(err, io.EOF) {
		return nil, errUnknown
	} else if err != nil {
		return nil, fmt.Errorf("read at %d: %w", at, err)
	}
	return b, nil
}

// identifyISO looks at the primary volume descriptor (ECMA-119, 8.4), in sector 16 of 2048 bytes.
func identifyISO(r io.ReaderAt) (Kind, string, error) {
	b, err := block(r, 16*2048, 2048)
	if err != nil {
		return "", "", err
	}
	if b[0] != 1 || string(b[1:6]) != "CD001" {
		return "", "", errUnknown
	}
	return KindISO, text(b[40:72]), nil
}

// identifyExt4 looks at the superblock (Documentation/filesystems/ext4/super.rst of Linux).
func identifyExt4(r io.ReaderAt) (Kind, string, error) {
	b, err := block(r, 1024, 1024)
	if err != nil {
		return "", "", err
	}
	if binary.LittleEndian.Uint16(b[0x38:]) != 0xef53 {
		return "", "", errUnknown
	}
	return KindExt4, text(b[0x78:0x88]), nil
}

// identifyFAT looks at the boot sector (Microsoft FAT specification, 3.1 to 3.3): a partition table
// ends with the same two bytes, so the fields that make a FAT must make sense as well.
func identifyFAT(r io.ReaderAt) (Kind, string, error) {
	b, err := block(r, 0, 512)
	if err != nil {
		return "", "", err
	}
	le := binary.LittleEndian
	size, fats, media := le.Uint16(b[11:]), b[16], b[21]
	jump := b[0] == 0xeb || b[0] == 0xe9
	if b[510] != 0x55 || b[511] != 0xaa || !jump || size < 512 || size > 4096 || size&(size-1) != 0 ||
		b[13] == 0 || b[13]&(b[13]-1) != 0 || fats < 1 || fats > 2 || (media != 0xf0 && media < 0xf8) {
		return "", "", errUnknown
	}
	at := 43 // FAT12 and FAT16
	if le.Uint16(b[22:]) == 0 {
		at = 71 // FAT32 has no 16-bit size of a FAT
	}
	return KindFAT, text(b[at : at+11]), nil
}

func text(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return strings.TrimSpace(string(b))
}
