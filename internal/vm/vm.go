// Package vm runs the appliance's image in QEMU: the demo's machines and the tests'. It owns QEMU's
// command line, the choice between KVM and emulation, the disk overlays and the monitor.
//
// It must not know what happens inside a machine beyond its console, nor who is on its networks.
package vm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Image is a directory that `make image` wrote.
type Image struct{ Dir string }

// Names of the image's files.
const (
	kernelFile  = "vmlinuz"
	initrdFile  = "initrd.img"
	cmdlineFile = "cmdline"
	diskFile    = "lockstep.qcow2"
)

// qemu is the program, and firmware what UEFI machines start with.
const (
	qemu     = "qemu-system-x86_64"
	firmware = "/usr/share/ovmf/OVMF.fd"
)

// Check tells what is missing to run the image, all at once and with the Debian packages that have it.
func (i Image) Check() error {
	var errs []error
	for _, f := range []string{kernelFile, initrdFile, cmdlineFile, diskFile} {
		if _, err := os.Stat(filepath.Join(i.Dir, f)); err != nil {
			errs = append(errs, fmt.Errorf("image: %w (`make image` builds it)", err))
		}
	}
	return errors.Join(append(errs, checkTools())...)
}

// checkTools tells which programs are missing.
func checkTools() error {
	var errs []error
	for _, t := range []struct{ program, pkg string }{{qemu, "qemu-system-x86"}, {"qemu-img", "qemu-utils"}} {
		if _, err := exec.LookPath(t.program); err != nil {
			errs = append(errs, fmt.Errorf("%s is not installed (Debian's package %s has it)", t.program, t.pkg))
		}
	}
	if _, err := os.Stat(firmware); errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, fmt.Errorf("%s is not there (Debian's package ovmf has it)", firmware))
	}
	return errors.Join(errs...)
}

// NIC is a network card.
type NIC struct {
	// Tap is an existing device in the network namespace that QEMU is started in; empty: nobody is on
	// the card's network.
	Tap string
	MAC string
}

// Config of a machine.
type Config struct {
	Image   Image
	Dir     string // for what belongs to this machine alone: its disk and its sockets
	Accel   Accel
	Direct  bool     // start kernel and initrd directly, without firmware and disk
	Volumes []string // raw images, attached read-only
	NICs    []NIC
	// FwCfg are files passed to the machine, by name below opt/lockstep.
	FwCfg map[string]string
}

// The sockets of a machine, in its directory.
func (c Config) monitor() string { return filepath.Join(c.Dir, "monitor.sock") }

// Control is the socket on the host's side of the machine's control port.
func (c Config) Control() string { return filepath.Join(c.Dir, "control.sock") }

func (c Config) overlay() string { return filepath.Join(c.Dir, "disk.qcow2") }

// Prepare makes the machine's own disk, above the image's, if there is none yet: what it writes
// survives its power.
func (c Config) Prepare() error {
	if c.Direct {
		return nil
	}
	if _, err := os.Stat(c.overlay()); err == nil {
		return nil
	}
	base, err := filepath.Abs(filepath.Join(c.Image.Dir, diskFile))
	if err != nil {
		return fmt.Errorf("find the image's disk: %w", err)
	}
	out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, c.overlay()).CombinedOutput()
	if err != nil {
		return fmt.Errorf("create the machine's disk: %w\n%s", err, out)
	}
	return nil
}

// memory of a machine, MiB. 96 would do without firmware.
const memory = 256

// Command is the program and its arguments. The machine's serial console is QEMU's standard output.
func (c Config) Command() (program string, args []string, err error) {
	add := func(a ...string) { args = append(args, a...) }
	add("-nodefaults", "-no-user-config", "-display", "none", "-vga", "std",
		"-machine", "q35,accel="+c.Accel.Name, "-cpu", c.Accel.cpu(), "-smp", "1", "-m", fmt.Sprint(memory),
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-qmp", "unix:"+escape(c.monitor())+",server=on,wait=off",
		"-device", "i6300esb", "-action", "watchdog=reset",
		"-device", "virtio-rng-pci",
		"-device", "virtio-serial-pci", "-chardev", "socket,id=control,path="+escape(c.Control())+",server=on,wait=off",
		"-device", "virtserialport,chardev=control,name=org.lockstep.control.0",
		"-drive", "if=none,id=cd,media=cdrom,readonly=on", "-device", "ide-cd,drive=cd,id="+cdDrive)
	if c.Direct {
		cmdline, err := os.ReadFile(filepath.Join(c.Image.Dir, cmdlineFile))
		if err != nil {
			return "", nil, fmt.Errorf("read the kernel's command line: %w (`make image` writes it)", err)
		}
		add("-kernel", filepath.Join(c.Image.Dir, kernelFile), "-initrd", filepath.Join(c.Image.Dir, initrdFile), "-append", strings.TrimSpace(string(cmdline)))
	} else {
		add("-bios", firmware, "-drive", "if=none,id=disk,format=qcow2,file="+escape(c.overlay()), "-device", "virtio-blk-pci,drive=disk,bootindex=0")
	}
	for _, v := range c.Volumes {
		add("-drive", "if=virtio,format=raw,readonly=on,file="+escape(v))
	}
	for i, n := range c.NICs {
		backend := fmt.Sprintf("user,id=net%d,restrict=on", i)
		if n.Tap != "" {
			backend = fmt.Sprintf("tap,id=net%d,ifname=%s,script=no,downscript=no", i, n.Tap)
		}
		add("-netdev", backend, "-device", fmt.Sprintf("virtio-net-pci,netdev=net%d,mac=%s,romfile=", i, n.MAC))
	}
	if len(c.NICs) == 0 {
		add("-nic", "none")
	}
	for _, name := range sortedKeys(c.FwCfg) {
		add("-fw_cfg", "name=opt/lockstep/"+name+",file="+escape(c.FwCfg[name]))
	}
	return qemu, args, nil
}

// cdDrive is empty until something is put in.
const cdDrive = "drive"

// escape writes a path within QEMU's options, where a comma ends a value.
func escape(path string) string { return strings.ReplaceAll(path, ",", ",,") }
