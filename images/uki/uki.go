// Package uki owns the layout of a unified kernel image: a PE file (Microsoft PE and COFF
// specification) made of a stub, a kernel, its command line and its initial RAM disk, which UEFI
// firmware starts like any program (UAPI.5 of the UAPI group).
//
// It must not know what is in the parts.
package uki

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
)

// Parts of a unified kernel image.
type Parts struct {
	Stub      []byte // systemd's linuxx64.efi.stub
	Kernel    []byte // a bzImage with an EFI stub of its own
	Initrd    []byte
	Cmdline   string
	OSRelease string // os-release(5)
}

// Offsets within the headers, bytes; PE specification, "Optional Header".
const (
	offLFANew           = 0x3c // in the DOS header: where the PE header is
	sizeFileHeader      = 20
	sizeSectionHeader   = 40
	optSizeInitialized  = 8
	optSectionAlignment = 32
	optFileAlignment    = 36
	optSizeOfImage      = 56
	optSizeOfHeaders    = 60
	optCheckSum         = 64
)

// Initialised data that may be read (IMAGE_SCN_CNT_INITIALIZED_DATA, IMAGE_SCN_MEM_READ).
const readOnlyData = 0x40000040

// section is one that is added to the stub.
type section struct {
	name    string
	data    []byte
	virtual uint32 // bytes it takes in memory; at least len(data)
}

// Assemble joins the parts. The result has no signature.
func Assemble(p Parts) ([]byte, error) {
	kernelSize, err := sizeOfImage(p.Kernel)
	if err != nil {
		return nil, fmt.Errorf("unified kernel image: kernel: %w", err)
	}
	if len(p.Initrd) == 0 {
		return nil, errors.New("unified kernel image: no initrd")
	}
	cmdline := append([]byte(p.Cmdline), 0)
	osrel := []byte(p.OSRelease)
	// The kernel comes last and has the room that it says it needs: an older stub starts it where it
	// lies, and what it clears behind itself must be nobody else's.
	out, err := appendSections(p.Stub, []section{
		{".osrel", osrel, uint32(len(osrel))},
		{".cmdline", cmdline, uint32(len(cmdline))},
		{".initrd", p.Initrd, uint32(len(p.Initrd))},
		{".linux", p.Kernel, max(kernelSize, uint32(len(p.Kernel)))},
	})
	if err != nil {
		return nil, fmt.Errorf("unified kernel image: stub: %w", err)
	}
	return out, nil
}

// sizeOfImage is how much memory a PE program takes.
func sizeOfImage(image []byte) (uint32, error) {
	opt, _, err := optionalHeader(image)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(image[opt+optSizeOfImage:]), nil
}

// optionalHeader finds the optional header, and the section table behind it.
func optionalHeader(image []byte) (opt, table int, err error) {
	f, err := pe.NewFile(bytes.NewReader(image))
	if err != nil {
		return 0, 0, fmt.Errorf("not a PE file: %w", err)
	}
	if _, ok := f.OptionalHeader.(*pe.OptionalHeader64); !ok || f.Machine != pe.IMAGE_FILE_MACHINE_AMD64 {
		return 0, 0, errors.New("not a PE program for x86-64")
	}
	// debug/pe has found all of this to be within the file.
	header := int(binary.LittleEndian.Uint32(image[offLFANew:])) + 4
	opt = header + sizeFileHeader
	return opt, opt + int(f.SizeOfOptionalHeader), nil
}

// appendSections adds sections behind the ones that a program has.
func appendSections(program []byte, add []section) ([]byte, error) {
	opt, table, err := optionalHeader(program)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	sectionAlign, fileAlign := le.Uint32(program[opt+optSectionAlignment:]), le.Uint32(program[opt+optFileAlignment:])
	if sectionAlign == 0 || fileAlign == 0 || sectionAlign&(sectionAlign-1) != 0 || fileAlign&(fileAlign-1) != 0 {
		return nil, fmt.Errorf("alignments of %d and %d are no powers of two", sectionAlign, fileAlign)
	}
	count := int(le.Uint16(program[opt-sizeFileHeader+2:]))
	end := table + (count+len(add))*sizeSectionHeader
	if room := int(le.Uint32(program[opt+optSizeOfHeaders:])); end > room || room > len(program) {
		return nil, fmt.Errorf("its headers have room for %d bytes, %d are needed", room, end)
	}
	out := bytes.Clone(program)
	address := uint32(0) // behind the last section in memory
	for i := range count {
		h := out[table+i*sizeSectionHeader:]
		address = max(address, le.Uint32(h[12:])+max(le.Uint32(h[8:]), le.Uint32(h[16:])))
	}
	initialized := le.Uint32(out[opt+optSizeInitialized:])
	for i, s := range add {
		address = align(address, sectionAlign)
		out = append(out, make([]byte, int(align(uint32(len(out)), fileAlign))-len(out))...)
		raw := align(uint32(len(s.data)), fileAlign)
		h := out[table+(count+i)*sizeSectionHeader:][:sizeSectionHeader]
		clear(h)
		copy(h[:8], s.name)
		le.PutUint32(h[8:], s.virtual)
		le.PutUint32(h[12:], address)
		le.PutUint32(h[16:], raw)
		le.PutUint32(h[20:], uint32(len(out)))
		le.PutUint32(h[36:], readOnlyData)
		out = append(out, s.data...)
		out = append(out, make([]byte, int(raw)-len(s.data))...)
		address += max(s.virtual, raw)
		initialized += raw
	}
	le.PutUint16(out[opt-sizeFileHeader+2:], uint16(count+len(add)))
	le.PutUint32(out[opt+optSizeInitialized:], initialized)
	le.PutUint32(out[opt+optSizeOfImage:], align(address, sectionAlign))
	le.PutUint32(out[opt+optCheckSum:], 0) // not looked at for programs
	return out, nil
}

func align(n, to uint32) uint32 { return (n + to - 1) &^ (to - 1) }
