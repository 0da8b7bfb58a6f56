package vm

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Accel is how a machine's instructions are carried out.
type Accel struct {
	Name string // kvm or tcg
	Why  string // why not KVM; empty with KVM
}

// TCG is QEMU's emulation: it runs everywhere, ten to fifty times slower.
func TCG(why string) Accel { return Accel{"tcg", why} }

// Slow reports whether time-outs must be longer than on a real machine.
func (a Accel) Slow() bool { return a.Name != "kvm" }

func (a Accel) cpu() string {
	if a.Slow() {
		return "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+aes,+pclmulqdq,+rdrand"
	}
	return "host"
}

// String names it for people.
func (a Accel) String() string {
	if a.Slow() {
		return fmt.Sprintf("QEMU's emulation (no KVM: %s)", a.Why)
	}
	return "KVM"
}

// probeLimit is how long the image may take under KVM until its init speaks: it takes one or two
// seconds.
const probeLimit = 15 * time.Second

// firstWords of the image's init on the serial console.
const firstWords = "lockstep appliance"

// Probe finds out whether the image runs under KVM, by starting it: a KVM may be there and be
// unable to run this kernel, which is so in some nested ones.
func Probe(ctx context.Context, image Image) Accel {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return TCG(strings.TrimPrefix(err.Error(), "open "))
	}
	f.Close()
	if err := probe(ctx, image); err != nil {
		return TCG(fmt.Sprintf("the image does not start with it: %v", err))
	}
	return Accel{Name: "kvm"}
}

func probe(ctx context.Context, image Image) error {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	cmdline, err := os.ReadFile(filepath.Join(image.Dir, cmdlineFile))
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, qemu, "-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35,accel=kvm", "-cpu", "host",
		"-m", fmt.Sprint(memory), "-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console", "-no-reboot", "-nic", "none",
		"-kernel", filepath.Join(image.Dir, kernelFile), "-initrd", filepath.Join(image.Dir, initrdFile), "-append", strings.TrimSpace(string(cmdline)))
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	heard := false
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if heard = strings.Contains(lines.Text(), firstWords); heard {
			break
		}
	}
	cancel() // kills it
	err = cmd.Wait()
	if heard {
		return nil
	}
	return fmt.Errorf("nothing heard from it within %v (%v)", probeLimit, err)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
