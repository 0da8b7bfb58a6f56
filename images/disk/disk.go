// Package disk owns the layout of the appliance's disk: a GUID partition table with an EFI system
// partition, which holds the unified kernel image, and a small one for what a voter must not forget.
// The same parts give the same bytes.
//
// It uses mtools, e2fsprogs and qemu-img, without mounting anything, and must not know what the
// kernel image is made of.
package disk

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/partition/gpt"

	"lockstep/images/volume"
)

// Sizes in bytes. The EFI system partition has room for several kernel images, so that a new one
// can be put beside the old one.
const (
	sector    = 512
	megabyte  = 1 << 20
	espSize   = 128 * megabyte
	stateSize = 16 * megabyte
	// size of the whole disk: a megabyte in front for the table and one behind for its copy.
	size = megabyte + espSize + stateSize + megabyte
)

// Identifiers are fixed: the same commit must give the same bits, and nothing addresses a
// partition by them. Two of these disks in one machine are told apart by their places.
const (
	diskGUID  = "4C4F434B-5354-4550-8000-000000000001"
	espGUID   = "4C4F434B-5354-4550-8000-000000000002"
	stateGUID = "4C4F434B-5354-4550-8000-000000000003"
	espSerial = "4C4F434B" // of the FAT
)

// bootPath is where UEFI firmware looks on a disk it knows nothing of (UEFI specification, 3.5.1.1).
const bootPath = "EFI/BOOT/BOOTX64.EFI"

// readMe is for whoever mounts the EFI system partition.
const readMe = `Lockstep appliance. Configuration files may be put into the directory LOCKSTEP here: see
docs/deploy.md, "Where the configuration comes from".
`

// Write makes the disk at path, from a unified kernel image. All times in it are mtime.
func Write(ctx context.Context, path string, kernel []byte, mtime time.Time) error {
	dir, err := os.MkdirTemp(filepath.Dir(path), "disk-")
	if err != nil {
		return fmt.Errorf("create disk: %w", err)
	}
	defer os.RemoveAll(dir)
	t := tools{ctx: ctx, dir: dir, mtime: mtime}
	esp, err := t.esp(kernel)
	if err != nil {
		return fmt.Errorf("create EFI system partition: %w", err)
	}
	state, err := t.state()
	if err != nil {
		return fmt.Errorf("create state partition: %w", err)
	}
	if err := assemble(path, esp, state); err != nil {
		return fmt.Errorf("create disk: %w", err)
	}
	return nil
}

// Convert writes the raw disk as compressed qcow2.
func Convert(ctx context.Context, raw, qcow2 string) error {
	out, err := exec.CommandContext(ctx, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", raw, qcow2).CombinedOutput()
	if err != nil {
		return fmt.Errorf("convert disk to qcow2: %w\n%s(Debian's package qemu-utils has qemu-img)", err, out)
	}
	return nil
}

// assemble writes the partition table and copies the partitions in.
func assemble(path, esp, state string) error {
	_ = os.Remove(path)
	disk, err := file.CreateFromPath(path, size)
	if err != nil {
		return err
	}
	defer disk.Close()
	w, err := disk.Writable()
	if err != nil {
		return err
	}
	const first, second = megabyte / sector, (megabyte + espSize) / sector
	table := &gpt.Table{
		LogicalSectorSize: sector, PhysicalSectorSize: sector, ProtectiveMBR: true, GUID: diskGUID,
		Partitions: []*gpt.Partition{
			{Index: 1, Start: first, End: second - 1, Type: gpt.EFISystemPartition, Name: "EFI system", GUID: espGUID},
			{Index: 2, Start: second, End: second + stateSize/sector - 1, Type: gpt.LinuxFilesystem, Name: "lockstep state", GUID: stateGUID},
		},
	}
	if err := table.Write(w, size); err != nil {
		return fmt.Errorf("write partition table: %w", err)
	}
	for _, p := range []struct {
		from string
		at   int64
	}{{esp, first * sector}, {state, second * sector}} {
		if err := copySparse(w, p.from, p.at); err != nil {
			return err
		}
	}
	return nil
}

// copySparse copies a file to an offset and leaves out what is zero there anyway.
func copySparse(w io.WriterAt, from string, at int64) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	buf, zero := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := io.ReadFull(f, buf)
		if n > 0 && !bytes.Equal(buf[:n], zero[:n]) {
			if _, err := w.WriteAt(buf[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
		switch err {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			return nil
		default:
			return err
		}
	}
}

// tools runs the programs that make file systems.
type tools struct {
	ctx   context.Context
	dir   string
	mtime time.Time
}

func (t tools) esp(kernel []byte) (string, error) {
	img := filepath.Join(t.dir, "esp")
	for _, f := range []struct {
		name string
		data []byte
	}{{"kernel", kernel}, {"readme", []byte(readMe)}} {
		at := filepath.Join(t.dir, f.name)
		if err := os.WriteFile(at, f.data, 0o644); err != nil {
			return "", err
		}
		if err := os.Chtimes(at, t.mtime, t.mtime); err != nil {
			return "", err
		}
	}
	if err := makeFile(img, espSize); err != nil {
		return "", err
	}
	// FAT32 with clusters of one sector: 64 MB and more make enough of them to be one.
	if err := t.run("mformat", "-i", img, "-F", "-c", "1", "-N", espSerial, "-v", volume.BootLabel, "::"); err != nil {
		return "", err
	}
	if err := t.run("mmd", "-i", img, "::EFI", "::EFI/BOOT", "::LOCKSTEP"); err != nil {
		return "", err
	}
	if err := t.run("mcopy", "-m", "-i", img, filepath.Join(t.dir, "readme"), "::README.TXT"); err != nil {
		return "", err
	}
	return img, t.run("mcopy", "-m", "-i", img, filepath.Join(t.dir, "kernel"), "::"+bootPath)
}

func (t tools) state() (string, error) {
	img := filepath.Join(t.dir, "state")
	if err := makeFile(img, stateSize); err != nil {
		return "", err
	}
	return img, t.run("mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-I", "256", "-m", "0", "-L", volume.StateLabel, "-U", stateGUID,
		"-E", "hash_seed="+stateGUID+",lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0", img)
}

func makeFile(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if err := f.Truncate(size); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// packages tells which Debian package has a program.
var packages = map[string]string{"mformat": "mtools", "mmd": "mtools", "mcopy": "mtools", "mke2fs": "e2fsprogs"}

// run runs a program in a world where time stands still at mtime.
func (t tools) run(name string, args ...string) error {
	path, err := exec.LookPath(name)
	if err != nil {
		if path, err = exec.LookPath("/sbin/" + name); err != nil {
			return fmt.Errorf("%s is not installed (Debian's package %s has it)", name, packages[name])
		}
	}
	cmd := exec.CommandContext(t.ctx, path, args...)
	epoch := fmt.Sprint(t.mtime.Unix())
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH="+epoch, "E2FSPROGS_FAKE_TIME="+epoch, "TZ=UTC", "LC_ALL=C", "MTOOLSRC=/dev/null", "MTOOLS_SKIP_CHECK=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}
