//go:build amd64

package trace

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// layout is where the code and the value go in an image of the vDSO.
type layout struct {
	image []byte
	puts  []put
	value uint64 // offset of the value
}

type put struct {
	at   uint64
	code []byte
}

// The value, at 8 byte boundaries: a counter that is odd while it changes, then what each function gives, and whether they make
// the system call instead.
const (
	valueSeq      = 0
	valueRealSec  = 8
	valueRealNsec = 16
	valueRealUsec = 24
	valueMonoSec  = 32
	valueMonoNsec = 40
	valueCalls    = 48
	valueSize     = 56
)

// assembler gathers machine code and where it refers to the value.
type assembler struct {
	code []byte
	refs []ref
}

type ref struct{ at, field int }

func (a *assembler) emit(b ...byte) { a.code = append(a.code, b...) }

// value emits an instruction with a 32 bit displacement from the next one to a field of the value.
func (a *assembler) value(field int, opcode ...byte) {
	a.emit(opcode...)
	a.refs = append(a.refs, ref{len(a.code), field})
	a.emit(0, 0, 0, 0)
}

// short emits a jump of two bytes, to be landed.
func (a *assembler) short(opcode byte) int {
	a.emit(opcode, 0)
	return len(a.code)
}

func (a *assembler) land(from int) { a.code[from-1] = byte(len(a.code) - from) }

func (a *assembler) back(opcode byte, to int) {
	a.emit(opcode, 0)
	a.code[len(a.code)-1] = byte(to - len(a.code))
}

// consistent emits loads of two fields into rax and rdx, again while the value changes.
func (a *assembler) consistent(first, second int) {
	again := len(a.code)
	a.value(valueSeq, 0x44, 0x8b, 0x05) // mov r8d, [seq]
	a.emit(0x41, 0xf6, 0xc0, 0x01)      // test r8b, 1
	a.back(0x75, again)                 // jnz again
	a.value(first, 0x48, 0x8b, 0x05)    // mov rax, [first]
	a.value(second, 0x48, 0x8b, 0x15)   // mov rdx, [second]
	a.value(valueSeq, 0x44, 0x3b, 0x05) // cmp r8d, [seq]
	a.back(0x75, again)                 // jne again
}

// calls emits a jump, to be landed, that is taken where a read of the clock has to be a system call.
func (a *assembler) calls() int {
	a.value(valueCalls, 0x44, 0x8b, 0x05) // mov r8d, [calls]
	a.emit(0x45, 0x85, 0xc0)              // test r8d, r8d
	return a.short(jumpNotZero)
}

// system emits the system call of that number, to which the function's arguments go as they are.
func (a *assembler) system(nr uint32) {
	a.emit(binary.LittleEndian.AppendUint32([]byte{0xb8}, nr)...) // mov eax, nr
	a.emit(0x0f, 0x05, 0xc3)                                      // syscall; ret
}

const (
	jumpZero, jumpNotZero, jumpAbove = 0x74, 0x75, 0x77

	realClocks = 1<<0 | 1<<5               // CLOCK_REALTIME and its coarse sister
	monoClocks = 1<<1 | 1<<4 | 1<<6 | 1<<7 // CLOCK_MONOTONIC, _RAW, _COARSE, CLOCK_BOOTTIME
	lastClock  = 7
)

// clockGettime(rdi: clock, rsi: where). Clocks that it does not know are the kernel's.
func clockGettime(a *assembler) {
	calls := a.calls()
	a.emit(0x83, 0xff, lastClock) // cmp edi, 7
	above := a.short(jumpAbove)
	a.emit(0x89, 0xf9)       // mov ecx, edi
	a.emit(0xb8, 1, 0, 0, 0) // mov eax, 1
	a.emit(0xd3, 0xe0)       // shl eax, cl
	a.emit(0xa8, realClocks) // test al, ...
	real := a.short(jumpNotZero)
	a.emit(0xa8, monoClocks)
	mono := a.short(jumpNotZero)
	a.land(above)
	a.land(calls)
	a.system(unix.SYS_CLOCK_GETTIME)
	store := func(sec, nsec int) {
		a.consistent(sec, nsec)
		a.emit(0x48, 0x89, 0x06)       // mov [rsi], rax
		a.emit(0x48, 0x89, 0x56, 0x08) // mov [rsi+8], rdx
		a.emit(0x31, 0xc0, 0xc3)       // xor eax, eax; ret
	}
	a.land(real)
	store(valueRealSec, valueRealNsec)
	a.land(mono)
	store(valueMonoSec, valueMonoNsec)
}

// gettimeofday(rdi: where, rsi: time zone), each of which may be missing.
func gettimeofday(a *assembler) {
	calls := a.calls()
	a.emit(0x48, 0x85, 0xff) // test rdi, rdi
	zone := a.short(jumpZero)
	a.consistent(valueRealSec, valueRealUsec)
	a.emit(0x48, 0x89, 0x07)       // mov [rdi], rax
	a.emit(0x48, 0x89, 0x57, 0x08) // mov [rdi+8], rdx
	a.land(zone)
	a.emit(0x48, 0x85, 0xf6) // test rsi, rsi
	end := a.short(jumpZero)
	a.emit(0x48, 0xc7, 0x06, 0, 0, 0, 0) // mov qword [rsi], 0
	a.land(end)
	a.emit(0x31, 0xc0, 0xc3) // xor eax, eax; ret
	a.land(calls)
	a.system(unix.SYS_GETTIMEOFDAY)
}

// seconds(rdi: where, or nothing) is time(2).
func seconds(a *assembler) {
	calls := a.calls()
	a.value(valueRealSec, 0x48, 0x8b, 0x05) // mov rax, [sec]
	a.emit(0x48, 0x85, 0xff)                // test rdi, rdi
	end := a.short(jumpZero)
	a.emit(0x48, 0x89, 0x07) // mov [rdi], rax
	a.land(end)
	a.emit(0xc3)
	a.land(calls)
	a.system(unix.SYS_TIME)
}

// noSuchCall makes whoever asks take the system call instead, which stops.
var noSuchCall = []byte{0x48, 0xc7, 0xc0, 0xda, 0xff, 0xff, 0xff, 0xc3} // mov rax, -ENOSYS; ret

// lay finds the functions of a vDSO. All the new code and the value go where clock_gettime was; the
// others begin with a jump there.
func lay(image []byte) (*layout, error) {
	file, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return nil, fmt.Errorf("reading the vDSO: %w", err)
	}
	symbols, err := file.DynamicSymbols()
	if err != nil {
		return nil, fmt.Errorf("reading the vDSO's symbols: %w", err)
	}
	functions := map[string]elf.Symbol{}
	for _, s := range symbols {
		functions[s.Name] = s
	}
	home, ok := functions["__vdso_clock_gettime"]
	if !ok {
		return nil, fmt.Errorf("this kernel's vDSO has no clock_gettime")
	}
	l := &layout{image: image}
	a := &assembler{}
	clockGettime(a)
	for _, f := range []struct {
		name string
		code func(*assembler)
	}{{"__vdso_gettimeofday", gettimeofday}, {"__vdso_time", seconds}} {
		s, ok := functions[f.name]
		if !ok {
			continue
		}
		there := home.Value + uint64(len(a.code))
		f.code(a)
		l.puts = append(l.puts, put{s.Value, binary.LittleEndian.AppendUint32([]byte{0xe9}, uint32(there-s.Value-5))}) // jmp there
	}
	if s, ok := functions["__vdso_getrandom"]; ok {
		l.puts = append(l.puts, put{s.Value, noSuchCall})
	}
	l.value = (home.Value + uint64(len(a.code)) + 63) &^ 63 // one cache line
	if l.value+valueSize > home.Value+home.Size || l.value+valueSize > uint64(len(image)) {
		return nil, fmt.Errorf("this kernel's vDSO has %d bytes for clock_gettime, too few", home.Size)
	}
	for _, r := range a.refs {
		from := home.Value + uint64(r.at) + 4
		binary.LittleEndian.PutUint32(a.code[r.at:], uint32(l.value+uint64(r.field)-from))
	}
	l.puts = append(l.puts, put{home.Value, a.code})
	return l, nil
}

// Clock is what a process's clocks show, in nanoseconds: since 1970, and of the monotonic clock. With Calls each read is a
// system call, which stops.
type Clock struct {
	Real, Mono int64
	Calls      bool
}

// SetClock sets what a process reads. Its threads may be running. It is safe for use by several goroutines.
func (p *Process) SetClock(c Clock) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.clock == 0 || p.mem == nil {
		return nil
	}
	var b [valueSize]byte
	const second = 1e9
	for field, v := range map[int]int64{
		valueRealSec: c.Real / second, valueRealNsec: c.Real % second, valueRealUsec: c.Real % second / 1000,
		valueMonoSec: c.Mono / second, valueMonoNsec: c.Mono % second,
	} {
		binary.LittleEndian.PutUint64(b[field:], uint64(v))
	}
	if c.Calls {
		b[valueCalls] = 1
	}
	seq := func(n uint32) []byte { return binary.LittleEndian.AppendUint32(nil, n) }
	p.seq += 2
	binary.LittleEndian.PutUint32(b[valueSeq:], p.seq-1)
	for _, w := range []put{{0, seq(p.seq - 1)}, {8, b[8:]}, {0, seq(p.seq)}} {
		if _, err := p.mem.WriteAt(w.code, int64(p.clock+w.at)); err != nil {
			return fmt.Errorf("setting the clocks of process %d: %w", p.PID, err)
		}
	}
	return nil
}
