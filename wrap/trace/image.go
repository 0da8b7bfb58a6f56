//go:build amd64

package trace

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Entries of the auxiliary vector (elf.h).
const (
	atIgnore      = 1
	atRandom      = 25
	atSysinfoEhdr = 33
)

// vdsoPages is how much of the vDSO is looked at.
const vdsoPages = 8 * 4096

// Machine says by an ELF file's head why it cannot be carried; empty: it can, or it is no ELF file.
func Machine(head []byte) string {
	if len(head) < 20 || !bytes.HasPrefix(head, []byte("\x7fELF")) {
		return ""
	}
	switch machine := binary.LittleEndian.Uint16(head[18:]); {
	case machine == 3 || head[4] != 2: // EM_386; ELFCLASS64
		return "is a program of 32 bits"
	case machine != 62: // EM_X86_64
		return "is a program for another machine"
	}
	return ""
}

// machine is Machine of what a process runs.
func machine(pid int) string {
	f, err := os.Open(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return "" // it has ended
	}
	defer f.Close()
	var head [20]byte
	n, _ := f.ReadAt(head[:], 0) // shorter is no ELF file
	return Machine(head[:n])
}

// image prepares what an exec has made: its vDSO, and the random bytes that it was given.
func (tr *Tracer) image(t *Task, random []byte) error {
	p := t.Proc
	p.place(0)
	if err := p.open(); err != nil {
		return err
	}
	auxv, err := os.ReadFile(fmt.Sprintf("/proc/%d/auxv", p.PID))
	if err != nil {
		return fmt.Errorf("reading the program's auxiliary vector: %w", err)
	}
	for i := 0; i+16 <= len(auxv); i += 16 {
		value := binary.LittleEndian.Uint64(auxv[i+8:])
		switch binary.LittleEndian.Uint64(auxv[i:]) {
		case atRandom:
			if err := t.Write(value, random); err != nil {
				return fmt.Errorf("giving the program its random bytes: %w", err)
			}
		case atSysinfoEhdr:
			if err := tr.vdso(t, value); err != nil {
				return err
			}
		}
	}
	return nil
}

// vdso puts the replacement into a process's vDSO.
func (tr *Tracer) vdso(t *Task, base uint64) error {
	image := make([]byte, vdsoPages)
	size := 0
	for ; size < vdsoPages; size += 4096 {
		if t.Read(base+uint64(size), image[size:size+4096]) != nil {
			break
		}
	}
	if tr.layout == nil || len(tr.layout.image) != size || !bytes.Equal(tr.layout.image, image[:size]) {
		l, err := lay(image[:size])
		if err != nil {
			return tr.hide(t, err)
		}
		tr.layout = l
	}
	for _, put := range tr.layout.puts {
		if _, err := t.Proc.mem.WriteAt(put.code, int64(base+put.at)); err != nil {
			return fmt.Errorf("changing the vDSO of process %d: %w", t.Proc.PID, err)
		}
	}
	t.Proc.place(base + tr.layout.value)
	return nil
}

// hide makes a program use system calls for its clocks: slower, and all the same right. The vector that the
// program reads lies on its stack, above its arguments and environment.
func (tr *Tracer) hide(t *Task, why error) error {
	var regs unix.PtraceRegs
	if err := unix.PtraceGetRegs(t.TID, &regs); err != nil {
		return fmt.Errorf("finding the program's stack: %w", err)
	}
	word := func(at uint64) (uint64, error) {
		var b [8]byte
		err := t.Read(at, b[:])
		return binary.LittleEndian.Uint64(b[:]), err
	}
	at, nulls := regs.Rsp+8, 0 // above the number of arguments
	for nulls < 2 {
		w, err := word(at)
		if err != nil {
			return fmt.Errorf("reading the program's stack: %w", err)
		}
		if at += 8; w == 0 {
			nulls++
		}
	}
	for ; ; at += 16 {
		kind, err := word(at)
		if err != nil || kind == 0 {
			return fmt.Errorf("the vDSO cannot be replaced (%w), nor hidden", why)
		}
		if kind == atSysinfoEhdr {
			return t.Write(at, binary.LittleEndian.AppendUint64(nil, atIgnore))
		}
	}
}
