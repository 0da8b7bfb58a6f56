package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"lockstep/images/debian"
	"lockstep/images/disk"
	"lockstep/images/initrd"
	"lockstep/images/kmod"
	"lockstep/images/uki"
)

// Modules that are loaded on every machine: what the appliance works with, what configuration is
// read from, and the watchdog of last resort.
var always = []string{"tun", "nf_tables", "nft_fib_inet", "nft_limit", "vxlan", "vfat", "nls_cp437", "nls_ascii", "nls_utf8", "isofs", "evdev", "softdog"}

// Modules for devices that a machine may have: loaded where there is one.
var drivers = []string{
	"virtio_net", "virtio_blk", "virtio_scsi", "virtio_rng", // QEMU, libvirt, Proxmox
	"qemu_fw_cfg", "button", "i6300esb", // configuration, power button, watchdog of QEMU
	"sd_mod", "sr_mod", "ahci", "ata_piix", // disks and CDs
	"vmxnet3", "vmw_pvscsi", // VMware
	"ena", "gve", // the clouds that have NICs of their own
	"hv_vmbus", "hv_netvsc", "hv_storvsc", // Hyper-V
}

// cmdline of the kernel. The last console is the one that /dev/console is: logs go to the serial
// one, the screen shows how the appliance is. A panic reboots after ten seconds. devkmsg is on because
// a kernel that limits what init may log loses just the lines that one looks for.
const cmdline = "console=tty0 console=ttyS0,115200 loglevel=4 printk.devkmsg=on panic=10 oops=panic net.ifnames=0"

// build makes everything in the output directory.
func build(ctx context.Context, o options) error {
	lock, err := debian.ReadLock(o.lock)
	if err != nil {
		return err
	}
	kernel, modules, err := kernelFrom(ctx, o, lock.Kernel)
	if err != nil {
		return err
	}
	stub, err := stubFrom(ctx, o, lock.Stub)
	if err != nil {
		return err
	}
	ramdisk, err := ramdisk(o, modules)
	if err != nil {
		return err
	}
	image, err := uki.Assemble(uki.Parts{
		Stub: stub, Kernel: kernel, Initrd: ramdisk, Cmdline: cmdline,
		OSRelease: fmt.Sprintf("ID=lockstep\nNAME=Lockstep\nPRETTY_NAME=\"Lockstep %s\"\nVERSION_ID=%q\n", o.version, o.version),
	})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return fmt.Errorf("create output directory: %w", err)
	}
	at := func(name string) string { return filepath.Join(o.out, name) }
	for _, f := range []struct {
		name string
		data []byte
	}{{"vmlinuz", kernel}, {"initrd.img", ramdisk}, {"cmdline", []byte(cmdline + "\n")}, {"lockstep.efi", image}} {
		if err := os.WriteFile(at(f.name), f.data, 0o644); err != nil {
			return fmt.Errorf("write %s: %w", f.name, err)
		}
	}
	if err := disk.Write(ctx, at("lockstep.raw"), image, o.epoch); err != nil {
		return err
	}
	if err := disk.Convert(ctx, at("lockstep.raw"), at("lockstep.qcow2")); err != nil {
		return err
	}
	return sums(o.out, "vmlinuz", "initrd.img", "cmdline", "lockstep.efi", "lockstep.raw", "lockstep.qcow2")
}

// kernelFrom takes the kernel and the modules out of Debian's package.
func kernelFrom(ctx context.Context, o options, p debian.Package) ([]byte, kmod.Set, error) {
	deb, err := debian.Fetch(ctx, p, o.cache)
	if err != nil {
		return nil, nil, err
	}
	files, err := debian.Files(ctx, deb, func(name string) bool {
		return strings.HasPrefix(name, "boot/vmlinuz-") || strings.HasSuffix(name, "/modules.builtin") || strings.Contains(name, ".ko")
	})
	if err != nil {
		return nil, nil, err
	}
	var kernel []byte
	builtin, modules := "", map[string][]byte{}
	for name, data := range files {
		switch {
		case strings.HasPrefix(name, "boot/vmlinuz-"):
			kernel = data
		case strings.HasSuffix(name, "/modules.builtin"):
			builtin = string(data)
		default:
			modules[name] = data
		}
	}
	if kernel == nil {
		return nil, nil, fmt.Errorf("package %s has no kernel in /boot", p.Name)
	}
	set, err := kmod.Select(modules, builtin, append(drivers[:len(drivers):len(drivers)], always...))
	if err != nil {
		return nil, nil, fmt.Errorf("package %s: %w", p.Name, err)
	}
	return kernel, set, nil
}

func stubFrom(ctx context.Context, o options, p debian.Package) ([]byte, error) {
	const name = "usr/lib/systemd/boot/efi/linuxx64.efi.stub"
	deb, err := debian.Fetch(ctx, p, o.cache)
	if err != nil {
		return nil, err
	}
	files, err := debian.Files(ctx, deb, func(n string) bool { return n == name })
	if err != nil {
		return nil, err
	}
	if files[name] == nil {
		return nil, fmt.Errorf("package %s has no file %s", p.Name, name)
	}
	return files[name], nil
}

// ramdisk is the whole user space: the program, which is also init, and the modules.
func ramdisk(o options, modules kmod.Set) ([]byte, error) {
	program, err := os.ReadFile(o.program)
	if err != nil {
		return nil, fmt.Errorf("read the program: %w (`make image` builds it)", err)
	}
	a := initrd.New(o.epoch)
	a.File("lockstep", 0o755, program)
	a.Link("init", "lockstep")
	for _, dir := range []string{"proc", "sys", "dev", "run", "tmp", "etc/lockstep", "var/lib/lockstep", "mnt"} {
		a.Dir(dir)
	}
	a.Char("dev/console", 0o600, 5, 1)
	a.Char("dev/null", 0o666, 1, 3)
	for _, m := range modules {
		a.File("lib/modules/"+m.Name+".ko", 0o644, m.Object)
	}
	index, err := modules.Index(always)
	if err != nil {
		return nil, err
	}
	a.File("lib/modules/index", 0o644, index)
	var b bytes.Buffer
	if err := a.Write(&b); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// sums writes the files' hashes as sha256sum(1) does, and tells the sizes.
func sums(dir string, names ...string) error {
	var list strings.Builder
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return fmt.Errorf("hash %s: %w", name, err)
		}
		fmt.Fprintf(&list, "%x  %s\n", sha256.Sum256(data), name)
		fmt.Printf("%s/%-15s %6.1f MiB\n", dir, name, float64(len(data))/(1<<20))
	}
	return os.WriteFile(filepath.Join(dir, "SHA256SUMS"), []byte(list.String()), 0o644)
}
