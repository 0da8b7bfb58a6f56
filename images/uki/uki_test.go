package uki

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"strings"
	"testing"
)

// program makes a PE program of one section, for x86-64.
func program(sizeOfImage uint32, headers uint32) []byte {
	le := binary.LittleEndian
	const peAt, opt, optSize = 0x40, 0x40 + 24, 240
	b := make([]byte, headers+512)
	copy(b, "MZ")
	le.PutUint32(b[offLFANew:], peAt)
	copy(b[peAt:], "PE\x00\x00")
	le.PutUint16(b[peAt+4:], pe.IMAGE_FILE_MACHINE_AMD64)
	le.PutUint16(b[peAt+6:], 1)
	le.PutUint16(b[peAt+20:], optSize)
	le.PutUint16(b[opt:], 0x20b)
	le.PutUint32(b[opt+optSectionAlignment:], 4096)
	le.PutUint32(b[opt+optFileAlignment:], 512)
	le.PutUint32(b[opt+optSizeOfImage:], sizeOfImage)
	le.PutUint32(b[opt+optSizeOfHeaders:], headers)
	le.PutUint32(b[opt+optCheckSum:], 0xdead)
	le.PutUint32(b[opt+108:], 16) // data directories
	s := b[opt+optSize:]
	copy(s, ".text")
	le.PutUint32(s[8:], 300)
	le.PutUint32(s[12:], 4096)
	le.PutUint32(s[16:], 512)
	le.PutUint32(s[20:], headers)
	copy(b[headers:], "code")
	return b
}

func parts() Parts {
	return Parts{
		Stub: program(8192, 1024), Kernel: append(program(1<<20, 1024), "kernel"...), Initrd: bytes.Repeat([]byte("r"), 5000),
		Cmdline: "console=ttyS0", OSRelease: "ID=lockstep\n",
	}
}

func TestAssemble(t *testing.T) {
	p := parts()
	image, err := Assemble(p)
	if err != nil {
		t.Fatal(err)
	}
	f, err := pe.NewFile(bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	end := uint32(0)
	for _, s := range f.Sections {
		names = append(names, s.Name)
		if s.VirtualAddress%4096 != 0 || s.Offset%512 != 0 || s.Size%512 != 0 {
			t.Errorf("%s lies at %#x, %#x in the file, and has %d bytes there", s.Name, s.VirtualAddress, s.Offset, s.Size)
		}
		if s.VirtualAddress < end {
			t.Errorf("%s overlaps the one before", s.Name)
		}
		end = s.VirtualAddress + max(s.VirtualSize, s.Size)
	}
	if got := strings.Join(names, " "); got != ".text .osrel .cmdline .initrd .linux" {
		t.Errorf("sections are %s", got)
	}
	for name, want := range map[string][]byte{
		".text": []byte("code"), ".cmdline": []byte("console=ttyS0\x00"), ".osrel": []byte(p.OSRelease), ".initrd": p.Initrd, ".linux": p.Kernel,
	} {
		if data, err := f.Section(name).Data(); err != nil || !bytes.HasPrefix(data, want) {
			t.Errorf("%s holds something else, %v", name, err)
		}
	}
	// The kernel has room for what it clears behind itself, and nothing follows it.
	if got := f.Section(".linux").VirtualSize; got != 1<<20 {
		t.Errorf("the kernel has %d bytes in memory, want what it asks for", got)
	}
	opt := f.OptionalHeader.(*pe.OptionalHeader64)
	if opt.SizeOfImage < end || opt.SizeOfImage%4096 != 0 || opt.CheckSum != 0 {
		t.Errorf("image has %d bytes in memory, its sections end at %d; checksum %#x", opt.SizeOfImage, end, opt.CheckSum)
	}
	again, err := Assemble(parts())
	if err != nil || !bytes.Equal(again, image) {
		t.Errorf("the same parts give other bytes (%v)", err)
	}
}

func TestAssembleRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(p *Parts)
		part   string
	}{
		"stub is text":   {func(p *Parts) { p.Stub = []byte("no") }, "stub: not a PE"},
		"kernel is text": {func(p *Parts) { p.Kernel = []byte("no") }, "kernel: not a PE"},
		"no initrd":      {func(p *Parts) { p.Initrd = nil }, "no initrd"},
		"no room":        {func(p *Parts) { p.Stub = program(8192, 512) }, "room for 512 bytes"},
		"other machine":  {func(p *Parts) { binary.LittleEndian.PutUint16(p.Stub[0x44:], pe.IMAGE_FILE_MACHINE_ARM64) }, "x86-64"},
		"alignment": {func(p *Parts) {
			binary.LittleEndian.PutUint32(p.Stub[0x40+24+optSectionAlignment:], 1000)
		}, "powers of two"},
	} {
		p := parts()
		c.change(&p)
		if _, err := Assemble(p); err == nil || !strings.Contains(err.Error(), c.part) {
			t.Errorf("%s: %v, want %q", name, err, c.part)
		}
	}
}
